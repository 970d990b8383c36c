-- Appends a batch, all or nothing, under ids that the hash gives: EPOCH-SEQUENCE. The line above names the life.
--
-- ARGV: node, batch number, the epoch in which the batch was sent before without an answer or nothing, history, the epoch
-- that the node has read, its clock, a step for another epoch; then for each shard its number, the next sequence that the node would read, how many events,
-- and those. KEYS: the hash, the streams.
-- Answers the number, the epoch, and for each shard its number and the first sequence: `7 1764000000000000 0:41 3:7`.

local node, number, sent, history = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local seen_epoch, clock = tonumber(ARGV[5]), tonumber(ARGV[6])
local shards = #KEYS - 1

local fields = redis.call('HMGET', meta, 'life', 'waits', 'epoch', 'batch:' .. node)
if fields[1] ~= LIFE then return redis.error_reply('OTHERLIFE the server is another one') end
if fields[2] and fields[2] ~= '' then
  return redis.error_reply('WAITING the server is another one, and not every node has said how far it had read')
end
if not fields[3] then return redis.error_reply('OTHERLIFE the log has no epoch') end
local epoch, record = tonumber(fields[3]) or LIMIT, fields[4]
if epoch >= LIMIT then return redis.error_reply('OTHERLIFE the log has no epoch that can be') end
if record and string.match(record, '^%d+') == number then return record end
local forgotten = 'FORGOTTEN the events may be in a part of the log that is lost'
-- In one epoch nothing is lost: a batch that is not remembered was not appended.
if sent ~= '' and not (record and sent == fields[3]) then return redis.error_reply(forgotten) end

local groups, lost = {}, nil
local at = 8
while at <= #ARGV do
  local shard, seen, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local have, why = ends(shard, epoch)
  if seen_epoch == epoch and seen > have then why = why or 'a node has read more' end
  lost = lost or why
  groups[#groups + 1] = { shard, have, count, at + 3 }
  at = at + 3 + count
end
if lost or seen_epoch > epoch then
  epoch = renew(math.max(clock, epoch + 1, seen_epoch + 1), tonumber(ARGV[7]), shards)
  if sent ~= '' then return redis.error_reply(forgotten) end
  for _, group in ipairs(groups) do group[2] = 0 end
end

local answer, marks, done = { number, text(epoch) }, {}, {}
for _, group in ipairs(groups) do
  local shard, next, count, first = unpack(group)
  local key = KEYS[2 + shard]
  for n = 0, count - 1 do
    local id = text(epoch) .. '-' .. text(next + n)
    local added = redis.pcall('XADD', key, 'MAXLEN', '~', history, id, 'e', ARGV[first + n])
    if type(added) == 'table' and added.err then
      for _, one in ipairs(done) do redis.call('XDEL', one[1], one[2]) end
      for _, other in ipairs(groups) do redis.call('HDEL', meta, 's' .. other[1]) end
      return added
    end
    done[#done + 1] = { key, id }
  end
  answer[#answer + 1] = text(shard) .. ':' .. text(next)
  marks[#marks + 1] = 's' .. shard
  marks[#marks + 1] = text(epoch) .. ' ' .. text(next + count) .. ' ' .. redis.call('XLEN', key)
end
record = table.concat(answer, ' ')
redis.call('HSET', meta, 'batch:' .. node, record, unpack(marks))
return record

-- Registers a node, says how far it has read, and answers where the log stands.
--
-- A *life* is the time for which one Redis process has kept the log. The script that appends has the life's name in its text, and
-- is loaded into that process only: another process, with another state of the data perhaps, does not know it. Then a node
-- names another life here, and nobody appends until every node that is registered has said how far it had read: `waits` has
-- the others. Where one has read further than the log reaches, or does not say so in time, another epoch begins.
--
-- ARGV: node, the life that it knows, another where that has ended, the epoch that the node has read and the node's clock, how many
-- milliseconds the others have, how often a node writes that it is there, whether it comes for the first time, a step for another epoch, then the next
-- sequence that it would read of each shard. KEYS: the hash, the streams, the notices.
-- Answers: OK, epoch, life, how many are waited for, why another epoch began, why nothing can be written, the notices' last
-- id, then the next sequence of each shard. Or CHANGED, where the life is not the one that the node knows.

local FORGET = 60000

local node, expected, fresh = ARGV[1], ARGV[2], ARGV[3]
local seen_epoch, clock, patience, beat = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local shards = #KEYS - 2

local has = redis.call('HGET', meta, 'shards')
if has and tonumber(has) ~= shards then return redis.error_reply('SHARDS ' .. has) end
local life = redis.call('HGET', meta, 'life') or ''
if life ~= expected then return { 'CHANGED' } end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local fields = redis.call('HMGET', meta, 'epoch', 'clock', 'waits', 'deadline')
local epoch = tonumber(fields[1] or '0') or 0
if epoch >= LIMIT then epoch = 0 end
local newest = tonumber(fields[2] or '0')
local waits, deadline = fields[3] or '', tonumber(fields[4] or '0')
-- The clock of a server that took over may be behind.
local stamp = math.max(now, newest)
local lost

local function forget(one)
  redis.call('HDEL', meta, 'node:' .. one, 'batch:' .. one)
end

if fresh ~= '' then
  waits = ''
  local all = redis.call('HGETALL', meta)
  for at = 1, #all, 2 do
    local one = string.match(all[at], '^node:(%x+)$')
    if one and one ~= node then
      -- It was gone before what may be lost was written.
      if tonumber(all[at + 1]) + FORGET < newest then forget(one) else waits = waits .. one .. ' ' end
    end
  end
  life = fresh
  deadline = now + patience
  redis.call('HSET', meta, 'life', life, 'waits', waits, 'deadline', text(deadline))
end

if waits ~= '' then
  local rest = string.gsub(waits, node .. ' ', '')
  if rest ~= '' and (now >= deadline or deadline > now + patience) then
    for one in string.gmatch(rest, '%x+') do forget(one) end
    rest = ''
    lost = 'the server is another one, and a node that may have read more from it before does not answer'
  end
  if rest ~= waits then redis.call('HSET', meta, 'waits', rest) end
  waits = rest
end

local next, marks = {}, {}
if epoch == 0 then
  lost = 'the log had none'
end
for shard = 0, shards - 1 do
  local have, why = ends(shard, epoch)
  if not why and seen_epoch == epoch and tonumber(ARGV[10 + shard]) > have then
    why = 'a node has read up to ' .. ARGV[10 + shard] .. ' in shard ' .. shard .. ', which ends at ' .. text(have)
  end
  lost = lost or why
  next[#next + 1] = text(have)
  local mark = text(epoch) .. ' ' .. text(have) .. ' ' .. redis.call('XLEN', KEYS[2 + shard])
  if have > 0 and mark ~= redis.call('HGET', meta, 's' .. shard) then
    -- A node of an earlier version appended.
    marks[#marks + 1] = 's' .. shard
    marks[#marks + 1] = mark
  end
end
if seen_epoch > epoch and epoch > 0 then lost = 'a node has read from a later epoch' end
if lost then
  epoch = renew(math.max(clock, epoch + 1, seen_epoch + 1), tonumber(ARGV[9]), shards)
  redis.call('HSET', meta, 'shards', shards, 'waits', '')
  waits, marks = '', {}
  for shard = 1, shards do next[shard] = '0' end
end

local notices = KEYS[#KEYS]
local heard_ms, heard_sequence = last_id(notices)
if heard_ms >= LIMIT then
  redis.call('RENAME', notices, notices .. ':foreign')
  heard_ms, heard_sequence = 0, 0
end

local refused = ''
local before = tonumber(redis.call('HGET', meta, 'node:' .. node) or '0')
if before + beat <= stamp or #marks > 0 then
  local written = redis.pcall('HSET', meta, 'node:' .. node, text(stamp), 'clock', text(stamp), unpack(marks))
  if type(written) == 'table' and written.err then refused = written.err end
end
if ARGV[8] == '1' and refused == '' then redis.call('HSETNX', meta, 'batch:' .. node, '0') end

local _, waiting = string.gsub(waits, ' ', '')
local answer = { 'OK', text(epoch), life, tostring(waiting), lost or '', refused, text(heard_ms) .. '-' .. text(heard_sequence) }
for _, one in ipairs(next) do answer[#answer + 1] = one end
return answer

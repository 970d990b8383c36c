-- What the scripts that follow share. KEYS[1] is the log's hash, KEYS[2] and on are the streams of the shards.
--
-- The hash says of each shard, in the field `sN`: the epoch, the next sequence, and how many entries the stream had then.
-- A node of a version before these fields appends without writing them: a stream may be further than its field says, and
-- never less far.

-- Numbers are doubles here: what an id of ours stays below.
local LIMIT = 9007199254740991

local meta = KEYS[1]

local function text(number)
  return string.format('%.0f', number)
end

-- The last id that a stream gave, as two numbers.
local function last_id(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return 0, 0 end
  if kind ~= 'stream' then error({ err = 'WRONGTYPE ' .. key .. ' is a ' .. kind .. ' and no stream' }) end
  local info = redis.call('XINFO', 'STREAM', key)
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      local ms, sequence = string.match(info[at + 1], '^(%d+)%-(%d+)$')
      return tonumber(ms), tonumber(sequence)
    end
  end
  return 0, 0
end

-- How many entries a stream has. Of what is no stream, the error names the key.
local function length_of(key)
  local length = redis.pcall('XLEN', key)
  if type(length) == 'table' then
    last_id(key)
    error(length)
  end
  return length
end

-- Where a shard ends in this epoch, and why it is not what it was, if it is not.
local function ends(shard, epoch)
  local key = KEYS[2 + shard]
  local of, next, count = string.match(redis.call('HGET', meta, 's' .. shard) or '', '^(%d+) (%d+) (%d+)$')
  next = tonumber(of or '-1') == epoch and tonumber(next)
  local length = length_of(key)
  if next and length > 0 and tonumber(count) == length then return next end
  local ms, sequence = last_id(key)
  local have = 0
  if ms == epoch and sequence < LIMIT then have = sequence + 1 end
  if ms > epoch or (ms == epoch and sequence >= LIMIT) then
    return have, 'the stream of shard ' .. shard .. ' has an entry that no node wrote'
  end
  if next and have < next then
    return have, 'the stream of shard ' .. shard .. ' ends at ' .. text(have) .. ' and ended at ' .. text(next)
  end
  return have
end

-- Begins another epoch, above this one and every id that is there, by a step that the node has drawn: where this epoch goes back
-- in time with the data, and the clock is behind it, the next one is not the same. A stream with an id that nothing can be above
-- is put aside.
local function renew(epoch, step, shards)
  for shard = 0, shards - 1 do
    local key = KEYS[2 + shard]
    local ms = last_id(key)
    if ms >= LIMIT then
      redis.call('RENAME', key, key .. ':foreign')
    elseif ms >= epoch then
      epoch = ms + 1
    end
  end
  epoch = epoch + step
  redis.call('HSET', meta, 'epoch', text(epoch))
  return epoch
end

-- Finds the entry that is so many before another. KEYS[1]: a stream. ARGV: an id, how many entries.
-- Answers how many there were, and the id of the oldest of them.
local found = redis.call('XREVRANGE', KEYS[1], '(' .. ARGV[1], '-', 'COUNT', ARGV[2])
if #found == 0 then return { '0', '' } end
return { tostring(#found), found[#found][1] }

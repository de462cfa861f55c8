-- The two ends of a repair: 'begin' opens a new key generation that nobody reads, 'switch' makes it the live one.
--
-- KEYS  1 watermark
-- ARGV  1 'begin' or 'switch'  2 generation  3 epoch  4.. with switch: field, value pairs of the watermark to set
-- Returns 'fenced', or {key generation that is built, key generations to retire...}.
local call = redis.call
if call('HGET', KEYS[1], 'epoch') ~= ARGV[3] then return 'fenced' end
local mark = call('HMGET', KEYS[1], 'keys', 'building', 'retired')
if ARGV[1] == 'begin' then
  local fresh = tostring(call('HINCRBY', KEYS[1], 'generations', 1))
  local retired = {}
  if mark[2] then retired[1] = mark[2] end
  if mark[3] then retired[#retired + 1] = mark[3] end
  call('HSET', KEYS[1], 'generation', ARGV[2], 'state', 'repairing', 'building', fresh, 'seq', 0)
  return { fresh, unpack(retired) }
end
if not mark[2] then return 'fenced' end
call('HSET', KEYS[1], 'keys', mark[2], 'state', 'live', unpack(ARGV, 4))
call('HDEL', KEYS[1], 'building')
if mark[1] then call('HSET', KEYS[1], 'retired', mark[1]) else call('HDEL', KEYS[1], 'retired') end
return { mark[2], mark[1] or nil }

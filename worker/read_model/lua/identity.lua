-- Compare-and-set of the Redis id.
--
-- KEYS  1 the key that names the live namespace
-- ARGV  1 the expected id (empty: none)  2 the new id
-- Returns the id after the call.
local current = redis.call('HGET', KEYS[1], 'redisId') or ''
if current ~= ARGV[1] then return current end
redis.call('HSET', KEYS[1], 'redisId', ARGV[2])
return ARGV[2]

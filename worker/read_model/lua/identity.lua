-- Gives the read models an id, where they have the one that the caller knows of.
--
-- KEYS  1 the key that names the live namespace
-- ARGV  1 the id that they have, empty: none  2 the id to give them
-- Returns the id that they have now.
local found = redis.call('HGET', KEYS[1], 'redisId') or ''
if found ~= ARGV[1] then return found end
redis.call('HSET', KEYS[1], 'redisId', ARGV[2])
return ARGV[2]

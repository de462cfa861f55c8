-- Makes the owner of a partition repair its read models: its next heartbeat or write is answered 'gone'. Without an owner,
-- the next one repairs them when it claims the partition.
--
-- KEYS  1 watermark
-- ARGV  1 key generation that is to be replaced
-- Returns 1; 0 if another key generation is live, or a repair is under way.
if redis.call('HGET', KEYS[1], 'keys') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'building') == 1 then return 0 end
redis.call('HDEL', KEYS[1], 'generation')
return 1

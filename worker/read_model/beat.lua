-- Says each second that the partition's writer lives, and how long its topics are.
--
-- KEYS  1 watermark
-- ARGV  1 generation  2 epoch  3.. field, value pairs of the watermark to set
-- Returns 'ok', 'fenced' or 'gone'.
local mark = redis.call('HMGET', KEYS[1], 'generation', 'epoch')
if not mark[2] then return 'gone' end
if mark[2] ~= ARGV[2] then return 'fenced' end
if mark[1] ~= ARGV[1] then return 'gone' end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 'ok'

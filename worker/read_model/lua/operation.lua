-- Begins, saves or ends an operation of `attendance operations`, fenced: one at a time for each target.
--
-- KEYS  1 the hash of the operations
-- ARGV  1 id  2 target  3 owner  4 document (JSON)  5 time after which an owner that saved nothing is gone, ms
--       6 'hold' (begin or save) or 'release' (end)
-- Returns '' if done, otherwise the id of the operation that holds the target, or, of this operation, 'owner'.
local call, hash = redis.call, KEYS[1]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id, owner, saved = unpack(cjson.decode(call('HGET', hash, 'lock:' .. ARGV[2]) or '["","",0]'))
if owner ~= ARGV[3] and now - saved < tonumber(ARGV[5]) then
  if id == ARGV[1] then return 'owner' end
  return id
end
call('HSET', hash, 'operation:' .. ARGV[1], ARGV[4], 'saved:' .. ARGV[1], string.format('%.0f', now))
if ARGV[6] == 'release' then
  call('HDEL', hash, 'lock:' .. ARGV[2])
else
  call('HSET', hash, 'lock:' .. ARGV[2], cjson.encode({ ARGV[1], ARGV[3], now }))
end
return ''

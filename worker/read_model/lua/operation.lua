-- Takes, saves or releases an operation of `attendance operations`, fenced: one at a time for each target, and of the processes
-- that have worked on one only the last that took it.
--
-- KEYS  1 the hash of the operations
-- ARGV  1 id  2 target  3 owner  4 document (JSON)  5 time after which an owner that saved nothing is gone, ms
--       6 'take' (begin, resume, abort), 'save' or 'release' (end)  7 of 'take': when the operation was saved last, as the caller
--       has read it (empty: it is new)
-- Returns '' if done; the id of the operation that holds the target; or 'owner' if another process has taken this one.
local call, hash, id = redis.call, KEYS[1], ARGV[1]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder, owner, saved = unpack(cjson.decode(call('HGET', hash, 'lock:' .. ARGV[2]) or '["","",0]'))
if owner ~= ARGV[3] and now - saved < tonumber(ARGV[5]) then
  if holder == id then return 'owner' end
  return holder
end
if ARGV[6] == 'take' then
  if (call('HGET', hash, 'saved:' .. id) or '') ~= ARGV[7] then return 'owner' end
  call('HSET', hash, 'owner:' .. id, ARGV[3])
elseif call('HGET', hash, 'owner:' .. id) ~= ARGV[3] then
  return 'owner'
end
call('HSET', hash, 'operation:' .. id, ARGV[4], 'saved:' .. id, string.format('%.0f', now))
if ARGV[6] == 'release' then
  call('HDEL', hash, 'lock:' .. ARGV[2])
else
  call('HSET', hash, 'lock:' .. ARGV[2], cjson.encode({ id, ARGV[3], now }))
end
return ''

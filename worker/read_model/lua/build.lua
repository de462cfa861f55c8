-- Opens a partition of a build for workers, or closes it for ever.
--
-- KEYS  1 watermark
-- ARGV  1 'open' or 'close'  2 id of the operation  3 with 'open': the consumer group from which its workers take over what is sent to
--       Kafka when it becomes live (empty: it is their own)
-- 'open' allows workers to claim it for this operation. 'close' refuses every claim and write from now on, and returns the key
-- generations to unlink; then the watermark is deleted.
local call = redis.call
if ARGV[1] == 'open' then
  call('HSET', KEYS[1], 'build', ARGV[2])
  if ARGV[3] ~= '' then call('HSET', KEYS[1], 'handover', ARGV[3]) end
  return {}
end
local watermark = call('HMGET', KEYS[1], 'keys', 'building', 'retired')
local names, seen = {}, {}
for _, list in ipairs(watermark) do
  for name in string.gmatch(list or '', '%S+') do
    if not seen[name] then
      seen[name] = true
      names[#names + 1] = name
    end
  end
end
if call('EXISTS', KEYS[1]) == 0 then return names end
call('HDEL', KEYS[1], 'build', 'generation', 'state', 'keys', 'building', 'handover')
call('HSET', KEYS[1], 'epoch', 'closed', 'retired', table.concat(names, ' '))
return names

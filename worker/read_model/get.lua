-- Packed pairs by their ids, wherever they are; for one server, which has all keys.
--
-- KEYS  1 the key that names the live namespace
-- ARGV  1 ids (16 bytes each)  2 shift of document buckets  3 what a namespace must begin with
-- Returns the namespace (empty: none is live; of another layout: nothing follows), a partition that is not live, -1 where
-- all are, and its state, then for each id its pair (empty: in no partition that is live).
local call, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local live = call('HMGET', KEYS[1], 'namespace', 'partitions')
if not live[1] or not live[2] then return { '' } end
if sub(live[1], 1, #ARGV[3]) ~= ARGV[3] then return { live[1] } end
local answer, ids, buckets, count = { live[1], -1, '' }, {}, {}, #ARGV[1] / 16
for index = 1, count do
  local id = sub(ARGV[1], index * 16 - 15, index * 16)
  ids[index], buckets[index] = id, ':doc:' .. floor((byte(id, 1) * 256 + byte(id, 2)) / 2 ^ tonumber(ARGV[2]))
  answer[3 + index] = ''
end
for number = 0, tonumber(live[2]) - 1 do
  local tag = live[1] .. ':{' .. number .. '}:'
  local mark = call('HMGET', tag .. 'watermark', 'state', 'keys')
  if mark[1] == 'live' then
    for index = 1, count do
      if answer[3 + index] == '' then answer[3 + index] = call('HGET', tag .. mark[2] .. buckets[index], ids[index]) or '' end
    end
  else
    answer[2], answer[3] = number, mark[1] or ''
  end
end
return answer

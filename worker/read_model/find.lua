-- Packed pairs by their ids, and all that bookings have.
--
-- KEYS  as for live.lua
-- ARGV  1 shift of document buckets  2.. for each partition ids (16 bytes each), then bookingIds, each before a NUL; or ids
--       alone, which are in one of the partitions, whichever
-- Says of each partition ids and packed pairs in turn.
local call, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local divisor, CHUNK = 2 ^ tonumber(ARGV[1]), 128

local function bucket_of(id) return 'doc:' .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor) end

local function add(packed, id, found)
  if packed then
    found[#found + 1] = id
    found[#found + 1] = packed
  end
  return packed
end

if #ARGV == 2 then
  local ids, buckets = {}, {}
  for at = 1, #ARGV[2], 16 do
    ids[#ids + 1] = sub(ARGV[2], at, at + 15)
    buckets[#ids] = bucket_of(ids[#ids])
  end
  return of_partitions(function(prefix, found)
    for at = #ids, 1, -1 do
      if add(call('HGET', prefix .. buckets[at], ids[at]), ids[at], found) then
        table.remove(ids, at)
        table.remove(buckets, at)
      end
    end
  end)
end

return of_partitions(function(prefix, found, index)
  local ids, bookings = ARGV[2 * index], ARGV[2 * index + 1]
  local function look(id) add(call('HGET', prefix .. bucket_of(id), id), id, found) end
  for at = 1, #ids, 16 do look(sub(ids, at, at + 15)) end
  for booking in string.gmatch(bookings, '%Z+') do
    for status = 0, 2 do
      local from = '[' .. booking .. '\0'
      while from do
        local members = call('ZRANGEBYLEX', prefix .. 'by-booking:' .. status, from, '(' .. booking .. '\1', 'LIMIT', 0, CHUNK)
        for _, member in ipairs(members) do look(sub(member, -16)) end
        from = #members == CHUNK and '(' .. members[CHUNK]
      end
    end
  end
end)

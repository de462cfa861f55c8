-- Packed pairs by their ids, and all that bookings have.
--
-- KEYS  as for live.lua
-- ARGV  1 shift of document buckets  2.. for each partition ids (16 bytes each), then bookingIds, each before a NUL; or
--       these two once for all
-- Says of each partition ids and packed pairs in turn.
local call, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local divisor, CHUNK = 2 ^ tonumber(ARGV[1]), 128

return of_partitions(function(prefix, found, index)
  local function add(id)
    local packed = call('HGET', prefix .. 'doc:' .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor), id)
    if packed then
      found[#found + 1] = id
      found[#found + 1] = packed
    end
  end
  local ids, bookings = ARGV[2 * index] or ARGV[2], ARGV[2 * index + 1] or ARGV[3]
  for at = 1, #ids, 16 do add(sub(ids, at, at + 15)) end
  for booking in string.gmatch(bookings, '%Z+') do
    for status = 0, 2 do
      local from = '[' .. booking .. '\0'
      while from do
        local members = call('ZRANGEBYLEX', prefix .. 'by-booking:' .. status, from, '(' .. booking .. '\1', 'LIMIT', 0, CHUNK)
        for _, member in ipairs(members) do add(sub(member, -16)) end
        from = #members == CHUNK and '(' .. members[CHUNK]
      end
    end
  end
end)

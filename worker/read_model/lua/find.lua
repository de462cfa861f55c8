-- Packed pairs by their ids, and all that bookings have.
--
-- KEYS  as for live.lua
-- ARGV  1 shift of document buckets  2 units that a partition may spend  3.. for each partition ids (16 bytes each), then
--       bookingIds, each before a NUL, then where to go on (empty: from the first booking); or ids alone, which are in one of
--       the partitions, whichever
-- Says of each partition where to go on (empty: there is no more), then ids and packed pairs in turn.
local get, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local divisor, budget, CHUNK = 2 ^ tonumber(ARGV[1]), tonumber(ARGV[2]), 128
-- what a document and a look into an index of bookings cost beside the command
local DOCUMENT, INDEX = 1, 2

local function bucket_of(id) return 'doc:' .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor) end

local function add(packed, id, found)
  if packed then
    found[#found + 1] = id
    found[#found + 1] = packed
  end
  return packed
end

if #ARGV == 3 then
  local ids, buckets = {}, {}
  for at = 1, #ARGV[3], 16 do
    ids[#ids + 1] = sub(ARGV[3], at, at + 15)
    buckets[#ids] = bucket_of(ids[#ids])
  end
  return of_partitions(function(prefix, found)
    found[2] = ''
    charge((1 + DOCUMENT) * #ids)
    for at = #ids, 1, -1 do
      if add(get('HGET', prefix .. buckets[at], ids[at]), ids[at], found) then
        table.remove(ids, at)
        table.remove(buckets, at)
      end
    end
  end)
end

-- All of bookings from a place on, which is the booking's number, the status and a member of its index.
local function all_of(prefix, bookings, place, look)
  local begun, number = spent, 0
  local first, status_then, member = string.match(place, '^(%d+) (%d) ?(.*)$')
  first = tonumber(first or 1)
  for booking in string.gmatch(bookings, '%Z+') do
    number = number + 1
    if number >= first then
      for status = number == first and tonumber(status_then or 0) or 0, 2 do
        local from = '[' .. booking .. '\0'
        if number == first and status_then and status == tonumber(status_then) and member ~= '' then from = '(' .. member end
        while from do
          if spent - begun >= budget then
            return number .. ' ' .. status .. (sub(from, 1, 1) == '(' and ' ' .. sub(from, 2) or '')
          end
          local members = call('ZRANGEBYLEX', prefix .. 'by-booking:' .. status, from, '(' .. booking .. '\1', 'LIMIT', 0, CHUNK)
          charge(INDEX)
          for _, each in ipairs(members) do look(sub(each, -16)) end
          from = #members == CHUNK and '(' .. members[CHUNK]
        end
      end
    end
  end
  return ''
end

return of_partitions(function(prefix, found, index)
  local ids, bookings, place = ARGV[3 * index], ARGV[3 * index + 1], ARGV[3 * index + 2]
  local function look(id)
    charge(1 + DOCUMENT)
    add(get('HGET', prefix .. bucket_of(id), id), id, found)
  end
  found[2] = ''
  for at = 1, #ids, 16 do look(sub(ids, at, at + 15)) end
  found[2] = all_of(prefix, bookings, place, look)
end)

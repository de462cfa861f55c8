-- Packed pairs by id, and all attendances of bookings.
--
-- KEYS  as in live.lua
-- ARGV  1 shift of document buckets  2 units that a partition may spend
--       3.. for each partition three arguments: ids (16 bytes each), bookings (bucket as text, space, bookingId,
--       NUL), and the place to continue from (empty: the first booking); or a single argument, ids whose partition is unknown
-- Answers for each partition: the place to continue from (empty: there are no more), then ids and packed pairs alternating.
local get, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local divisor, budget, CHUNK = 2 ^ tonumber(ARGV[1]), tonumber(ARGV[2]), 128
-- cost of a document and of a range of the booking index, in addition to the command
local DOCUMENT_COST, INDEX_COST = 1, 2

local function bucket_of(id) return KEY_DOC .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor) end

local function append_pair(packed, id, answer)
  if packed then
    answer[#answer + 1] = id
    answer[#answer + 1] = packed
  end
  return packed
end

if #ARGV == 3 then
  local ids, buckets = {}, {}
  for at = 1, #ARGV[3], 16 do
    ids[#ids + 1] = sub(ARGV[3], at, at + 15)
    buckets[#ids] = bucket_of(ids[#ids])
  end
  return answer_partitions(function(prefix, answer)
    answer[2] = ''
    charge((1 + DOCUMENT_COST) * #ids)
    for at = #ids, 1, -1 do
      if append_pair(get('HGET', prefix .. buckets[at], ids[at]), ids[at], answer) then
        table.remove(ids, at)
        table.remove(buckets, at)
      end
    end
  end)
end

-- Calls read(id) for the attendances of a large booking from a place in the index on: the status, and the last member that was
-- read. Returns the place to continue from; nil: there are no more.
local function read_large(prefix, booking, first_status, member, is_spent, read)
  for status = first_status, 2 do
    local from = status == first_status and member ~= '' and '(' .. member or '[' .. booking .. '\0'
    while from do
      if is_spent() then return status .. (sub(from, 1, 1) == '(' and ' ' .. sub(from, 2) or '') end
      local members = call('ZRANGEBYLEX', prefix .. KEY_BY_BOOKING .. status, from, '(' .. booking .. '\1', 'LIMIT', 0, CHUNK)
      charge(INDEX_COST)
      for _, each in ipairs(members) do
        -- it may be small still, while it becomes large
        if #each == #booking + 17 then read(sub(each, -16)) end
      end
      from = #members == CHUNK and '(' .. members[CHUNK]
    end
  end
end

-- Calls read(id) for every attendance of the bookings from `place` on: the booking's number in the list, and of a large one the
-- place in it. Returns the next place.
local function read_bookings(prefix, bookings, place, read)
  local spent_before, number = spent, 0
  local function is_spent() return spent - spent_before >= budget end
  local first_booking, first_status, member = string.match(place, '^(%d+) ?(%d?) ?(.*)$')
  first_booking = tonumber(first_booking or 1)
  for bucket, booking in string.gmatch(bookings, '(%d+) (%Z+)') do
    number = number + 1
    if number >= first_booking then
      if is_spent() then return tostring(number) end
      local record = call('HGET', prefix .. KEY_BOOKING .. bucket, booking)
      local first = record and first_attendance(record)
      if first then
        for at = first, #record, 17 do read(sub(record, at + 1, at + 16)) end
      elseif record then
        local status, after = 0, ''
        if number == first_booking and place ~= '' then status, after = tonumber(first_status) or 0, member end
        local next_ = read_large(prefix, booking, status, after, is_spent, read)
        if next_ then return number .. ' ' .. next_ end
      end
    end
  end
  return ''
end

return answer_partitions(function(prefix, answer, index)
  local ids, bookings, place = ARGV[3 * index], ARGV[3 * index + 1], ARGV[3 * index + 2]
  local function read(id)
    charge(1 + DOCUMENT_COST)
    append_pair(get('HGET', prefix .. bucket_of(id), id), id, answer)
  end
  answer[2] = ''
  for at = 1, #ids, 16 do read(sub(ids, at, at + 15)) end
  answer[2] = read_bookings(prefix, bookings, place, read)
end)

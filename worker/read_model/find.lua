-- Packed pairs by their ids, or all that bookings have.
--
-- KEYS  watermarks, all of one slot or of one server
-- ARGV  1 shift of document buckets  2 ids (16 bytes each)  3.. bookingIds
-- Returns for each partition a list: state (where it is not 'live' nothing follows), then ids and packed pairs in turn.
local call, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local divisor, answer = 2 ^ tonumber(ARGV[1]), {}
local CHUNK = 64

-- Lua compares strings by the server's locale; keys are in the order of their bytes
local function less(one, other)
  for at = 1, math.min(#one, #other) do
    local a, b = byte(one, at), byte(other, at)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- The ids of all members with this score that begin with a booking.
local function each_of(key, status, booking, visit)
  local low = call('ZCOUNT', key, '-inf', '(' .. status)
  local stop = low + call('ZCOUNT', key, status, status)
  local high = stop
  while low < high do
    local middle = floor((low + high) / 2)
    if less(booking, call('ZRANGE', key, middle, middle)[1]) then high = middle else low = middle + 1 end
  end
  while low < stop do
    local members = call('ZRANGE', key, low, math.min(stop, low + CHUNK) - 1)
    for _, member in ipairs(members) do
      if sub(member, 1, #booking) ~= booking or #member ~= #booking + 16 then return end
      visit(sub(member, -16))
    end
    low = low + #members
  end
end
for index, key in ipairs(KEYS) do
  local mark = call('HMGET', key, 'state', 'keys')
  local found = { mark[1] or '' }
  if mark[1] == 'live' then
    local prefix = sub(key, 1, -10) .. mark[2] .. ':'
    local function add(id)
      local packed = call('HGET', prefix .. 'doc:' .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor), id)
      if packed then
        found[#found + 1] = id
        found[#found + 1] = packed
      end
    end
    for at = 1, #ARGV[2], 16 do add(sub(ARGV[2], at, at + 15)) end
    for at = 3, #ARGV do
      for status = 0, 2 do each_of(prefix .. 'by-booking', status, ARGV[at] .. '\0', add) end
    end
  end
  answer[index] = found
end
return answer

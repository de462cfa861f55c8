-- Packed pairs by their ids, and all that bookings have.
--
-- KEYS  watermarks, all of one slot or of one server
-- ARGV  1 shift of document buckets  2.. for each key ids (16 bytes each), then bookingIds, each before a NUL
-- Returns for each key a list: state (where it is not 'live' nothing follows), then ids and packed pairs in turn.
local call, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local divisor, answers, CHUNK = 2 ^ tonumber(ARGV[1]), {}, 128

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
    local ids, bookings = ARGV[2 * index], ARGV[2 * index + 1]
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
  end
  answers[index] = found
end
return answers

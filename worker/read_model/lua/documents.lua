-- Reads packed pairs (read_model/documents.py).

-- Whether a pair has an attendance, its status, number of attendees, expected participants, and the index behind these.
local function head_of_pair(packed)
  local head, numbers = string.byte(packed, 1, 2)
  local status = math.floor(head / 4) % 4
  if head % 32 < 16 then return head % 2 == 1, status, math.floor(numbers / 16), numbers % 16, 3 end
  local number, expected, at = struct.unpack('>I4I4', packed, 2)
  return head % 2 == 1, status, number, expected, at
end

-- The index behind the contribution of a pair.
local function behind_contribution(packed)
  local head = string.byte(packed, 1)
  local at, form = head % 32 < 16 and 3 or 10, math.floor(head / 32) % 4
  if form == 0 then return at end
  if form == 1 then return at + 5 end
  if form == 2 then return at + 10 end
  return at + 1 + string.byte(packed, at)
end

-- The window of a pair, `<startMs>:<endMs>`, given its index; empty: none is known.
local function window_of(packed, at)
  local form = math.floor(string.byte(packed, 1) / 32) % 4
  if form == 0 then return '' end
  if form == 3 then return (struct.unpack('>Bc0', packed, at)) end
  local start, length
  if form == 1 then
    length = struct.unpack('>I5', packed, at)
    start = math.floor(length / 8192)
    start, length = start * 60000, (length - start * 8192) * 60000
  else
    start, length = struct.unpack('>I6I4', packed, at)
  end
  return string.format('%.0f:%.0f', start, start + length)
end

-- The minute of the arrival of a pair with an ATTENDED attendance.
local function minute_of(packed)
  local at = behind_contribution(packed)
  local tags = string.byte(packed, at)
  if tags % 2 == 0 then return math.floor(struct.unpack('>I7', packed, at + 1) / 60000000) end
  return (struct.unpack('>I4', packed, at + (tags < 16 and 8 or 9)))
end

-- The text at an index.
local function name_at(packed, at, is_guid, is_long)
  if is_guid then return string.format('%08x-%04x-%04x-%04x-%04x%08x', struct.unpack('>I4HHHHI4', packed, at)) end
  return (struct.unpack(is_long and '>Hc0' or '>Bc0', packed, at))
end

-- The tags of a pair, and the index of its sessionId.
local function behind_times(packed)
  local at = behind_contribution(packed)
  local tags = string.byte(packed, at)
  if string.byte(packed, 1) % 2 == 0 then return tags, at + 1 end
  return tags, at + (tags >= 16 and 9 or 8) + (tags % 2 == 1 and 4 or 0)
end

-- sessionId of a pair.
local function session_of(packed)
  local tags, at = behind_times(packed)
  return name_at(packed, at, tags % 4 >= 2, tags >= 16)
end

-- bookingId of a pair.
local function booking_of(packed)
  local tags, at = behind_times(packed)
  if tags % 4 >= 2 then at = at + 16
  elseif tags >= 16 then at = at + 2 + struct.unpack('>H', packed, at)
  else at = at + 1 + string.byte(packed, at) end
  return name_at(packed, at, tags % 8 >= 4, tags >= 16)
end


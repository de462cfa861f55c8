-- Reads packed pairs (read_model/documents.py). What only one script needs is in its own file: a function costs each call of a
-- script 3 us, which makes all of its functions anew.

-- Whether a pair has an attendance, its status, number of attendees, expected participants, and the index behind these.
local function head_of_pair(packed)
  local head, numbers = string.byte(packed, 1, 2)
  local status = math.floor(head / 4) % 4
  if head % 32 < 16 then return head % 2 == 1, status, math.floor(numbers / 16), numbers % 16, 3 end
  local number, expected, at = struct.unpack('>I4I4', packed, 2)
  return head % 2 == 1, status, number, expected, at
end

-- By the head of a contribution the index behind it, where that is the same for all.
local behind_head = {}

-- The index behind the contribution of a pair, and its head.
local function behind_contribution(packed)
  local head = string.byte(packed, 1)
  local behind = behind_head[head]
  if behind then return behind, head end
  local at, form = head % 32 < 16 and 3 or 10, math.floor(head / 32) % 4
  if form == 3 then return at + 1 + string.byte(packed, at), head end
  behind_head[head] = at + 5 * form
  return at + 5 * form, head
end

-- sessionId of a pair, or its bookingId.
local function name_of(packed, is_booking)
  local at, head = behind_contribution(packed)
  local tags = string.byte(packed, at)
  local is_long, is_guid = tags >= 16, tags % 4 >= 2
  at = at + 1
  if head % 2 == 1 then at = at + (is_long and 8 or 7) + (tags % 2 == 1 and 4 or 0) end
  if is_booking then
    if is_guid then at = at + 16
    elseif is_long then at = at + 2 + struct.unpack('>H', packed, at)
    else at = at + 1 + string.byte(packed, at) end
    is_guid = tags % 8 >= 4
  end
  if is_guid then return string.format('%08x-%04x-%04x-%04x-%04x%08x', struct.unpack('>I4HHHHI4', packed, at)) end
  return (struct.unpack(is_long and '>Hc0' or '>Bc0', packed, at))
end


-- The minute of the arrival of a pair with an ATTENDED attendance.
local function minute_of(packed)
  local at = behind_contribution(packed)
  local tags = string.byte(packed, at)
  if tags % 2 == 0 then return math.floor(struct.unpack('>I7', packed, at + 1) / 60000000) end
  return (struct.unpack('>I4', packed, at + (tags < 16 and 8 or 9)))
end


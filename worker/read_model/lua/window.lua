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


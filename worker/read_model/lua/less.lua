-- Compares bytes, as sorted sets do; Lua's `<` uses the server's locale.
local function less(one, other)
  for at = 1, min(#one, #other) do
    local a, b = byte(one, at), byte(other, at)
    if a ~= b then return a < b end
  end
  return #one < #other
end


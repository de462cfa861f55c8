-- Finds bookings in the roster of a session.

-- The first rank from `low` to before `high`, whose members are ordered by bytes, that is not before a name; `high`: none is. Not
-- rank_after: bookingIds are not uniformly distributed.
local function rank_of_name(roster, low, high, name)
  while low < high do
    local middle = floor((low + high) / 2)
    if less(call('ZRANGE', roster, middle, middle)[1], name) then low = middle + 1 else high = middle end
  end
  return low
end


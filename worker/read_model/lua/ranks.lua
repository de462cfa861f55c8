-- Finds places in sorted sets of ids.

-- The position of an id among all possible ids, 0 to 2^24; ids are uniformly distributed.
local function position_of(id)
  local one, two, three = byte(id, 1, 3)
  return (one or 0) * 65536 + (two or 0) * 256 + (three or 0)
end

-- Rank of the first member after (score, member), or at it if `inclusive`. Pass the score as text where a number, converted to
-- text, would lose digits.
local function rank_after(key, score, member, inclusive)
  local stored_score = call('ZSCORE', key, member)
  if stored_score and tonumber(stored_score) == tonumber(score) then
    return call('ZRANK', key, member) + (inclusive and 0 or 1)
  end
  local low = call('ZCOUNT', key, '-inf', '(' .. score)
  local high = low + call('ZCOUNT', key, score, score)
  -- interpolation search by position for a few steps, then binary search
  local target, low_position, high_position, guesses = position_of(member), 0, 2 ^ 24, 0
  while low < high do
    local middle = floor((low + high) / 2)
    if guesses < 6 and high_position > low_position then
      middle = low
        + min(high - low - 1, max(0, floor((target - low_position) / (high_position - low_position) * (high - low))))
    end
    guesses = guesses + 1
    local candidate = call('ZRANGE', key, middle, middle)[1]
    if less(member, candidate) then high, high_position = middle, position_of(candidate)
    else low, low_position = middle + 1, position_of(candidate) end
  end
  return low
end


-- The next numbers of attendees that attendances in question have, and how many have each.
--
-- KEYS  as for live.lua
-- ARGV  1 1 or -1 (descending)  2 how many attendances they should come to  3 how many numbers to look at, at most
--       4 where to begin: JSON null or a number  5 whether that number itself is wanted: 1 or 0
--       6 windows and 7 sessions: as for scan.lua
-- Says of each partition the last number that was looked at (empty: there is no more), then numbers and counts in turn.
local call, floor, min, max = redis.call, math.floor, math.min, math.max
local up, wanted, budget = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3])
local from, inclusive = cjson.decode(ARGV[4]), ARGV[5] == '1'
local windows, sessions = cjson.decode(ARGV[6]), cjson.decode(ARGV[7])
if from == cjson.null then from = nil end
if sessions == cjson.null then sessions = nil end
local NUMBERS = 2 ^ 32

-- The nearest number that a source has in the windows of a status, at or beyond a number.
local function nearest(source, of_status, number)
  local first, last, step = 1, #of_status, 1
  if not up then first, last, step = last, first, -1 end
  for index = first, last, step do
    local low, high = of_status[index][1], of_status[index][2]
    local base = floor(low / NUMBERS) * NUMBERS
    if number and up then low = max(low, base + number) end
    if number and not up then high = min(high, base + number) end
    if low <= high then
      local found
      if up then found = call('ZRANGEBYSCORE', source, low, high, 'WITHSCORES', 'LIMIT', 0, 1)
      else found = call('ZREVRANGEBYSCORE', source, high, low, 'WITHSCORES', 'LIMIT', 0, 1) end
      if found[1] then return tonumber(found[2]) - base end
    end
  end
end

-- `add` says of a number's count whether that is enough.
local function numbers(sources, add)
  local number = from
  if from and not inclusive then number = up and from + 1 or from - 1 end
  while not number or number >= 0 do
    local best
    for _, of_status in ipairs(windows) do
      for _, source in ipairs(sources) do
        local found = nearest(source, of_status, number)
        if found and (not best or (up and found < best) or (not up and found > best)) then best = found end
      end
    end
    if not best then return end
    local count = 0
    for _, of_status in ipairs(windows) do
      local score = floor(of_status[1][1] / NUMBERS) * NUMBERS + best
      for _, window in ipairs(of_status) do
        if score >= window[1] and score <= window[2] then
          for _, source in ipairs(sources) do count = count + call('ZCOUNT', source, score, score) end
        end
      end
    end
    if add(best, count) then return end
    number = up and best + 1 or best - 1
  end
end

return of_partitions(function(prefix, answer)
  local seen, sum = 0, 0
  answer[2] = ''
  local function add(value, count)
    answer[#answer + 1] = value
    answer[#answer + 1] = count
    sum, seen = sum + count, seen + 1
    if sum >= wanted or seen >= budget then
      answer[2] = value
      return true
    end
  end
  local sources = { prefix .. 'by-status' }
  for at, name in ipairs(sessions or {}) do sources[at] = prefix .. 'ids:' .. name end
  numbers(sources, add)
end)

-- Entries of the indexes of attendances that are in question: what `scan.lua` and `numbers.lua` have in common.

local byte, sub, floor, min, max = string.byte, string.sub, math.floor, math.min, math.max
local NUMBERS = 2 ^ 32 -- a score is status * NUMBERS + number
local CHUNK = 128
-- where named sessions have no more entries than this together, all of them are read
local GATHERED = 200
-- of more sessions than this an attendance's document is looked at instead of each session's index
local FEW_SESSIONS = 3
-- what a look at a document costs beside the command
local DECODED = 1

-- set by `ask_about`
local up, many, budget, windows, sessions, divisor
-- the windows, one where statuses follow on each other
local joined = {}
-- names of sessions as a set, where they are many
local named
-- what was spent when the partition was begun
local begun = 0

-- The bounds of a window as text, written once: numbers would be written anew for every command.
local function bounds(window)
  if not window.low then
    window.low, window.high = string.format('%.0f', window[1]), string.format('%.0f', window[2])
  end
  return window.low, window.high
end

local function ask_about(is_up, how_many, units, windows_json, sessions_json, shift)
  up, many, budget, divisor = is_up, how_many, units, 2 ^ tonumber(shift)
  windows, sessions = cjson.decode(windows_json), cjson.decode(sessions_json)
  for _, of_status in ipairs(windows) do
    for _, window in ipairs(of_status) do
      local last = joined[#joined]
      if last and last[2] + 1 == window[1] then last[2] = window[2] else joined[#joined + 1] = { window[1], window[2] } end
    end
  end
  if sessions == cjson.null then sessions = nil end
  if sessions and #sessions > FEW_SESSIONS then
    named = {}
    for _, name in ipairs(sessions) do named[name] = true end
  end
end

local function begin() begun = spent end
local function is_over() return spent - begun >= budget end

local function in_question(score)
  local low, high = 1, #joined
  while low <= high do
    local middle = floor((low + high) / 2)
    if score < joined[middle][1] then high = middle - 1
    elseif score > joined[middle][2] then low = middle + 1
    else return true end
  end
  return false
end

local function unhex(text) return (string.gsub(text, '..', function(pair) return string.char(tonumber(pair, 16)) end)) end

-- Lua compares strings by the server's locale; keys are in the order of their bytes
local function less(one, other)
  for at = 1, min(#one, #other) do
    local a, b = byte(one, at), byte(other, at)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- Where an id lies among all, which are spread evenly: 0 to 2^24.
local function spread(id)
  local one, two, three = byte(id, 1, 3)
  return (one or 0) * 65536 + (two or 0) * 256 + (three or 0)
end

-- Rank of the first member that is behind (score, member), or with `itself` at it. A score may be text: a number is cut there.
local function behind(key, score, member, itself)
  local known = call('ZSCORE', key, member)
  if known and tonumber(known) == tonumber(score) then return call('ZRANK', key, member) + (itself and 0 or 1) end
  local low = call('ZCOUNT', key, '-inf', '(' .. score)
  local high = low + call('ZCOUNT', key, score, score)
  local at, first, beyond, guesses = spread(member), 0, 2 ^ 24, 0
  while low < high do
    local middle = floor((low + high) / 2)
    if guesses < 6 and beyond > first then
      middle = low + min(high - low - 1, max(0, floor((at - first) / (beyond - first) * (high - low))))
    end
    guesses = guesses + 1
    local there = call('ZRANGE', key, middle, middle)[1]
    if less(member, there) then high, beyond = middle, spread(there) else low, first = middle + 1, spread(there) end
  end
  return low
end

-- So many keys by score within some ranges of scores, behind `place` {score, id}: where to go on, then scores and ids in turn.
local function by_score(source, ranges, place, wanted)
  local found = { '' }
  local first, last, step = 1, #ranges, 1
  if not up then first, last, step = last, first, -1 end
  for index = first, last, step do
    local low, high = ranges[index][1], ranges[index][2]
    local rows = {}
    if place and place[1] >= low and place[1] <= high then
      if up then
        local start = behind(source, place[1], place[2])
        rows = call('ZRANGE', source, start, start + wanted - 1, 'WITHSCORES')
      else
        local start = call('ZCARD', source) - behind(source, place[1], place[2], true)
        rows = call('ZREVRANGE', source, start, start + wanted - 1, 'WITHSCORES')
      end
    elseif not place or (up and place[1] < low) or (not up and place[1] > high) then
      local from, to = bounds(ranges[index])
      if up then rows = call('ZRANGEBYSCORE', source, from, to, 'WITHSCORES', 'LIMIT', '0', wanted)
      else rows = call('ZREVRANGEBYSCORE', source, to, from, 'WITHSCORES', 'LIMIT', '0', wanted) end
    end
    for at = 1, #rows, 2 do
      local score = tonumber(rows[at + 1])
      if score < low or score > high then break end
      found[#found + 1] = rows[at + 1]
      found[#found + 1] = rows[at]
      wanted = wanted - 1
    end
    if wanted <= 0 then
      found[1] = found[#found - 1] .. ' ' .. found[#found]
      break
    end
  end
  return found
end

local function document(prefix, id)
  charge(DECODED)
  return call('HGET', prefix .. 'doc:' .. floor((byte(id, 1) * 256 + byte(id, 2)) / divisor), id)
end

local function session_of(packed) return (struct.unpack('>Hc0', packed, 20 + byte(packed, 11))) end

-- Whether an attendance is in question, by its document; for questions of many sessions.
local function is_named(prefix, id)
  local packed = document(prefix, id)
  if not packed or byte(packed, 1) % 2 == 0 or not named[session_of(packed)] then return false end
  local status, number = struct.unpack('>BI4', packed, 2)
  return in_question(status * NUMBERS + number)
end

local function sources_of(prefix)
  if not sessions then return { prefix .. 'by-status' } end
  local sources = {}
  for at, name in ipairs(sessions) do sources[at] = prefix .. 'ids:' .. name end
  return sources
end

-- Gives every entry in question to `visit`, with the place of its session; false where the sessions have too many entries.
local function gather(sources, visit)
  local sizes, total = {}, 0
  for at, source in ipairs(sources) do
    sizes[at] = call('ZCARD', source)
    total = total + sizes[at]
    if total > GATHERED then return false end
  end
  for at, source in ipairs(sources) do
    if sizes[at] > 0 then
      local rows = call('ZRANGE', source, '0', '-1', 'WITHSCORES')
      for entry = 1, #rows, 2 do
        if in_question(tonumber(rows[entry + 1])) then visit(rows[entry], rows[entry + 1], at) end
      end
    end
  end
  return true
end

local function count_of(sources, ranges)
  local total = 0
  for _, range in ipairs(ranges) do
    local low, high = bounds(range)
    for _, source in ipairs(sources) do total = total + call('ZCOUNT', source, low, high) end
  end
  return total
end


-- The order of bookingId and id at few sessions, from the rosters of these.

-- As schemas.attendance.NAMESPACE.
local ID_NAMESPACE = '\111\012\031\014\074\085\093\011\154\103\047\010\061\028\123\066'
-- estimated costs of an attendance and of a session, see scan.lua
local ROSTER_COST, ROSTERS_COST = 3, 8

-- Estimated cost of `by_roster`, if so many attendances match.
local function cost_by_roster(prefix, statuses, matching)
  local sizes, listed, cost = {}, 0, 0
  for at, session in ipairs(sessions) do
    sizes[at] = call('ZCARD', prefix .. KEY_ROSTER .. session)
    listed = listed + sizes[at]
  end
  local wanted = #statuses * limit * max(1, listed / matching)
  for _, size in ipairs(sizes) do cost = cost + ROSTERS_COST + ROSTER_COST * min(size, wanted) end
  return cost
end

-- From the rosters of the sessions.
local function by_roster(prefix, statuses, place, answer)
  -- The id of an attendance: UUIDv5(namespace, bookingId NUL sessionId).
  local function id_of(booking, session)
    local digest = redis.sha1hex(ID_NAMESPACE .. booking .. '\0' .. session)
    local second, third = tonumber(sub(digest, 9, 16), 16), tonumber(sub(digest, 17, 24), 16)
    second = second - floor(second / 4096) % 16 * 4096 + 5 * 4096
    return struct.pack(
      '>I4I4I4I4', tonumber(sub(digest, 1, 8), 16), second, third % 2 ^ 30 + 2 ^ 31, tonumber(sub(digest, 25, 32), 16))
  end

  -- Appends the keys of the attendances of these bookings at a session. Returns how many match.
  local function add_of_session(prefix, session, names, is_whole, segment)
    if #names == 0 then return 0 end
    charge(ROSTER_COST * #names)
    local ids = {}
    for at, name in ipairs(names) do ids[at] = id_of(name, session) end
    if is_whole then
      for at, name in ipairs(names) do segment[#segment + 1] = name .. '\0' .. ids[at] end
      return #names
    end
    local places = places_of_matching(prefix, { prefix .. KEY_IDS .. session }, ids)
    for _, at in ipairs(places) do segment[#segment + 1] = names[at] .. '\0' .. ids[at] end
    return #places
  end

  -- Appends a segment with bookings of a session in a state, whose members have ranks from `low` to before `high`.
  local function add_of_status(prefix, session, status, low, high, place, answer)
    local roster, source = prefix .. KEY_ROSTER .. session, prefix .. KEY_IDS .. session
    local matching = status.is_whole and high - low or count_of({ source }, status.ranges)
    if matching == 0 then return end
    if place then
      -- all ids of a booking come before what follows its name and NUL
      local name, id = string.match(place, '^(%Z*)%z(.*)$')
      local is_behind = id == (ascending and AFTER_ALL or BEFORE_ALL)
      local rank = rank_of_name(roster, low, high, is_behind == ascending and name .. '\0' or name)
      if ascending then low = rank else high = rank end
    end
    local take = max(FIRST_TAKE, min(CHUNK, math.ceil(1.25 * limit * (high - low) / matching)))
    local segment, count = { '' }, 0
    while low < high do
      local names
      if ascending then names = call('ZRANGE', roster, low, min(low + take, high) - 1)
      else names = call('ZRANGE', roster, max(high - take, low), high - 1) end
      count = count + add_of_session(prefix, session, names, status.is_whole, segment)
      if ascending then low = low + #names else high = high - #names end
      if low < high and (count >= limit or is_budget_spent()) then
        segment[1] = (ascending and names[#names] or names[1]) .. '\0' .. (ascending and AFTER_ALL or BEFORE_ALL)
        break
      end
    end
    if #segment > 1 or segment[1] ~= '' then answer[#answer + 1] = segment end
  end

  local is_whole, of_state, whole_segment = true, {}, { '' }
  for _, status in ipairs(statuses) do
    is_whole = is_whole and status.is_whole
    of_state[status.code] = status
  end
  for _, session in ipairs(sessions) do
    local roster = prefix .. KEY_ROSTER .. session
    if call('ZCARD', roster) <= #statuses * limit then
      local rows, names = call('ZRANGE', roster, '0', '-1', 'WITHSCORES'), {}
      for at = 1, #rows, 2 do
        if of_state[tonumber(rows[at + 1])] then names[#names + 1] = rows[at] end
      end
      for from = 1, #names, CHUNK do
        add_of_session(prefix, session, { unpack(names, from, min(#names, from + CHUNK - 1)) }, is_whole, whole_segment)
      end
    else
      for _, status in ipairs(statuses) do
        local low = status.code == 0 and 0 or call('ZCOUNT', roster, '-inf', '(' .. status.code)
        add_of_status(prefix, session, status, low, low + call('ZCOUNT', roster, status.code, status.code), place, answer)
      end
    end
  end
  if #whole_segment > 1 then answer[#answer + 1] = whole_segment end
end


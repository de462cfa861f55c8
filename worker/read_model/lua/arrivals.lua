-- Attendees of a session by the minute in which they arrived, from the documents of its ATTENDED attendances.
--
-- KEYS  as in live.lua
-- ARGV  1 the session  2 shift of document buckets  3 the first minute  4 the minute after the last one  5 number of attendances
--       that are read of a partition  6.. of each partition the place to start after, JSON: null or [score as text, id in hex]
-- Answers for each partition: its watermark (fields and values alternating, with the server's time in ms as the field `now`);
-- whether the session has a tally there, 1 or 0; the number of its ATTENDED attendances with anybody; the place to continue after,
-- as score, space and id (empty: there are no more); then minutes and numbers of attendees alternating.
local session, since, before, most = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
divisor = 2 ^ tonumber(ARGV[2])

return answer_partitions(function(prefix, answer, index)
  answer[2] = watermark_of(KEYS[index])
  answer[3] = call('EXISTS', prefix .. KEY_TALLY .. session)
  local source, place = prefix .. KEY_IDS .. session, cjson.decode(ARGV[5 + index])
  local highest = '(' .. string.format('%.0f', NUMBERS)
  answer[4] = call('ZCOUNT', source, '1', highest)
  answer[5] = ''
  local rows
  if place == cjson.null then
    rows = call('ZRANGEBYSCORE', source, '1', highest, 'WITHSCORES', 'LIMIT', '0', most)
  else
    local start = rank_after(source, place[1], unhex(place[2]))
    rows = call('ZRANGE', source, start, start + most - 1, 'WITHSCORES')
  end
  local counts = {}
  for at = 1, #rows, 2 do
    local score = tonumber(rows[at + 1])
    if score >= NUMBERS then break end
    local packed = read_document(prefix, rows[at])
    local minute = minute_of(packed)
    if minute >= since and minute < before then counts[minute] = (counts[minute] or 0) + score end
    if at == 2 * most - 1 then answer[5] = rows[at + 1] .. ' ' .. rows[at] end
  end
  for minute, count in pairs(counts) do
    answer[#answer + 1] = minute
    answer[#answer + 1] = string.format('%.0f', count)
  end
end)

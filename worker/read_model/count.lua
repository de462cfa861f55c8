-- How many attendances are in question.
--
-- KEYS  as for live.lua
-- ARGV  1 windows: as for scan.lua  2 sessions: JSON list, or null for all
-- Says of each partition the number.
ask_about(true, 0, 0, ARGV[1], ARGV[2], 0)
return of_partitions(function(prefix, answer) answer[2] = count_of(sources_of(prefix), joined) end)

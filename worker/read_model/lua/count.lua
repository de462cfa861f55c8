-- The number of matching attendances.
--
-- KEYS  as in live.lua
-- ARGV  1 score ranges, as in scan.lua  2 sessions: JSON list, or null for all
-- Answers for each partition: the number.
set_query(true, 0, 0, ARGV[1], ARGV[2], 0)
return answer_partitions(function(prefix, answer)
  local sources, total = sources_of(prefix), 0
  local is_small = sessions and gather(sources, function() total = total + 1 end)
  answer[2] = is_small and total or count_of(sources, merged_ranges)
end)

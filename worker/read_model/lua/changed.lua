-- Appends to the stream of changes what a transaction changed.
--
-- KEYS  1 watermark
-- ARGV  1 the sessions whose tally changed, joined by newlines  2 whether alerts changed, 1 or 0
local sessions, count = ARGV[1], 1
for _ in string.gmatch(sessions, '\n') do count = count + 1 end
announce((count > MAX_NAMES or #sessions > MAX_BYTES) and ANY_SESSION or sessions, ARGV[2] == '1')

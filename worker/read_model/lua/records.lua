-- Reads the records of bookings (read_model/booking_records.py).

-- The size of the head of a record; its attendances follow, 17 bytes each.
local function head_of(record) return math.floor(string.byte(record, 1) / 4) % 2 == 1 and 17 or 5 end

-- Whether the attendances are in the index by booking instead.
local function is_large(record) return math.floor(string.byte(record, 1) / 2) % 2 == 1 end


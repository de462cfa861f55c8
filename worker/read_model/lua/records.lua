-- Reads the records of bookings (read_model/booking_records.py).

-- The index of the first attendance in a record, 17 bytes each; nil: it has none, they are in the indexes by booking.
local function first_attendance(record)
  local flags = string.byte(record, 1)
  if flags % 4 < 2 then return flags < 4 and 6 or 18 end
end


#![no_main]

use attendance_native::fuzzing::decode_json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| decode_json(data));

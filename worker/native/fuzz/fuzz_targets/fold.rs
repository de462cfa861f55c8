#![no_main]

use attendance_native::fuzzing::fold_again;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fold_again(data));

//! The True Random Number Generator firmware interface (DEN0098, version 1.0).
//!
//! The bytes come from the caller's entropy source; without one, every request is answered
//! `NO_ENTROPY`, and the guest goes without.

use super::smccc::{Call, Response};

const TRNG_VERSION: u32 = 0x8400_0050;
const TRNG_FEATURES: u32 = 0x8400_0051;
const TRNG_GET_UUID: u32 = 0x8400_0052;
const TRNG_RND32: u32 = 0x8400_0053;
const TRNG_RND64: u32 = 0xc400_0053;

/// What `TRNG_VERSION` answers: 1.0.
const VERSION: u64 = 0x1_0000;
const NOT_SUPPORTED: i32 = -1;
const INVALID_PARAMETERS: i32 = -2;
const NO_ENTROPY: i32 = -3;

/// The UUID of this generator: 0027b57d-f129-448e-8bbe-811c254b1d02, in the order of its text. Its
/// first four bytes must not all be 0xff, which would read as an error.
pub const TRNG_UUID: [u8; 16] = [
    0x00, 0x27, 0xb5, 0x7d, 0xf1, 0x29, 0x44, 0x8e, 0x8b, 0xbe, 0x81, 0x1c, 0x25, 0x4b, 0x1d, 0x02,
];

/// Answers a call of this interface; `None` for any other.
pub fn call(call: &Call, entropy: &mut dyn FnMut(&mut [u8]) -> bool) -> Option<Response> {
    Some(match call.function.0 {
        TRNG_VERSION => Response::value(VERSION),
        TRNG_FEATURES => match call.first_word() {
            TRNG_VERSION | TRNG_FEATURES | TRNG_GET_UUID | TRNG_RND32 | TRNG_RND64 => {
                Response::value(0)
            }
            _ => Response::code(NOT_SUPPORTED),
        },
        TRNG_GET_UUID => Response::uuid(TRNG_UUID),
        TRNG_RND32 => random(call.args[0], 32, entropy),
        TRNG_RND64 => random(call.args[0], 64, entropy),
        _ => return None,
    })
}

/// `bits` random bits in the three registers after x0, each of which takes `width`: the lowest ones
/// in x3, the highest in x1, all others zero.
fn random(bits: u64, width: u64, entropy: &mut dyn FnMut(&mut [u8]) -> bool) -> Response {
    if bits == 0 || bits > 3 * width {
        return failed(INVALID_PARAMETERS);
    }
    let mut bytes = [0; 24];
    if !entropy(&mut bytes) {
        return failed(NO_ENTROPY);
    }
    let mut results = [0; 4];
    let mut left = bits;
    for (result, bytes) in results.iter_mut().rev().zip(bytes.as_chunks::<8>().0) {
        let here = left.min(width);
        left -= here;
        let mask = if here == 0 { 0 } else { u64::MAX >> (64 - here) };
        *result = u64::from_le_bytes(*bytes) & mask;
    }
    Response::four(results)
}

/// An error: the registers for entropy are zero then.
fn failed(code: i32) -> Response {
    Response::four([i64::from(code).cast_unsigned(), 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minus(code: u64) -> u64 {
        code.wrapping_neg()
    }

    fn ask(function: u32, argument: u64, has_entropy: bool) -> [u64; 4] {
        let call = Call::new(&[u64::from(function), argument, 0, 0, 0, 0, 0, 0]);
        let response = super::call(&call, &mut |out| {
            out.fill(0xff);
            has_entropy
        });
        let mut results = [0; 4];
        let response = response.unwrap();
        results[..response.results().len()].copy_from_slice(response.results());
        results
    }

    /// How many of the lowest bits of the concatenation of x1, x2 and x3 are set; none above may be.
    fn bits(results: [u64; 4], width: u32) -> u32 {
        let [status, high, middle, low] = results;
        assert_eq!(status, 0);
        let count = [low, middle, high].map(u64::trailing_ones);
        for (value, ones) in [low, middle, high].into_iter().zip(count) {
            assert!(ones <= width && value.count_ones() == ones);
        }
        assert!(count[0] == width || count[1] == 0);
        assert!(count[1] == width || count[2] == 0);
        count.iter().sum()
    }

    #[test]
    fn every_allowed_number_of_bits_is_given_exactly() {
        for wanted in 1..=96 {
            assert_eq!(bits(ask(TRNG_RND32, u64::from(wanted), true), 32), wanted);
        }
        for wanted in 1..=192 {
            assert_eq!(bits(ask(TRNG_RND64, u64::from(wanted), true), 64), wanted);
        }
    }

    #[test]
    fn no_bits_or_too_many_are_invalid() {
        for (function, argument) in
            [(TRNG_RND32, 0), (TRNG_RND32, 97), (TRNG_RND64, 0), (TRNG_RND64, 193)]
        {
            assert_eq!(ask(function, argument, true), [minus(2), 0, 0, 0]);
        }
        assert_eq!(ask(TRNG_RND64, u64::MAX, true), [minus(2), 0, 0, 0]);
        assert_eq!(ask(TRNG_RND64, 1 << 32 | 8, true), [minus(2), 0, 0, 0]);
    }

    #[test]
    fn the_32_bit_call_looks_at_w1_only() {
        assert_eq!(bits(ask(TRNG_RND32, 0xdead_beef_0000_0008, true), 32), 8);
    }

    #[test]
    fn without_a_source_there_is_no_entropy_and_no_byte_of_the_buffer() {
        assert_eq!(ask(TRNG_RND64, 64, false), [minus(3), 0, 0, 0]);
    }

    #[test]
    fn features_names_the_interface_and_nothing_else() {
        for function in [TRNG_VERSION, TRNG_FEATURES, TRNG_GET_UUID, TRNG_RND32, TRNG_RND64] {
            assert_eq!(ask(TRNG_FEATURES, u64::from(function), true)[0], 0);
        }
        for function in [0, 0x8400_0054, 0xc400_0050] {
            assert_eq!(ask(TRNG_FEATURES, function, true)[0], minus(1));
        }
        assert_eq!(ask(TRNG_VERSION, 0, true)[0], 0x1_0000);
    }

    #[test]
    fn the_uuid_fills_four_registers_from_the_first_byte_on() {
        let uuid = ask(TRNG_GET_UUID, 0, true);
        assert_eq!(uuid[0], 0x7db5_2700);
        assert_eq!(uuid[3], 0x021d_4b25);
    }
}

//! `secretbox` of NaCl: XSalsa20 and Poly1305, the one cipher here that our cryptographic library does not have.
//!
//! Every step is additions, rotations and multiplications of fixed length: no table, no branch on a secret. What it
//! computes is held against the published vectors of NaCl, Salsa20 and Poly1305 below.

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of a nonce, which is long enough to be drawn at random.
pub(super) const NONCE_BYTES: usize = 24;
/// Bytes of the authenticator that precedes the ciphertext.
pub(super) const TAG_BYTES: usize = 16;

const BLOCK_BYTES: usize = 64;
/// "expand 32-byte k", in words.
const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The authenticator and the ciphertext of a message.
pub(super) fn seal(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; TAG_BYTES];
    out.extend_from_slice(message);
    let one_time = apply_stream(key, nonce, &mut out[TAG_BYTES..]);
    let tag = poly1305(&one_time, &out[TAG_BYTES..]);
    out[..TAG_BYTES].copy_from_slice(&tag);
    out
}

/// The message; `None` when it is not what was sealed with this key and nonce.
pub(super) fn open(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    sealed: &[u8],
) -> Option<Vec<u8>> {
    let (tag, ciphertext) = sealed.split_at_checked(TAG_BYTES)?;
    let mut message = ciphertext.to_vec();
    let one_time = apply_stream(key, nonce, &mut message);
    let expected = poly1305(&one_time, ciphertext);
    aws_lc_rs::constant_time::verify_slices_are_equal(&expected, tag).ok()?;
    Some(message)
}

/// Adds the stream of XSalsa20 to a text. Its first 32 bytes are kept apart: they are the key of the authenticator.
fn apply_stream(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    text: &mut [u8],
) -> [u8; KEY_BYTES] {
    let (first, last) = nonce.split_at(16);
    let inner = hsalsa20(&words(key), &words(first));
    let last: [u32; 2] = words(last);
    let block = |counter: u64| salsa20(&inner, last, counter);
    let head = block(0);
    let (one_time, rest) = head.split_at(KEY_BYTES);
    let (begin, tail) = text.split_at_mut(text.len().min(rest.len()));
    add(begin, rest);
    for (chunk, counter) in tail.chunks_mut(BLOCK_BYTES).zip(1..) {
        add(chunk, &block(counter));
    }
    one_time.try_into().expect("32 of 64 bytes")
}

fn add(text: &mut [u8], stream: &[u8]) {
    for (byte, other) in text.iter_mut().zip(stream) {
        *byte ^= other;
    }
}

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
    }
    words
}

/// The state of Salsa20: constants on the diagonal, the key in two halves, and 16 bytes of input between.
fn state(key: &[u32; 8], input: &[u32; 4]) -> [u32; 16] {
    [
        SIGMA[0], key[0], key[1], key[2], key[3], SIGMA[1], input[0], input[1], input[2], input[3],
        SIGMA[2], key[4], key[5], key[6], key[7], SIGMA[3],
    ]
}

fn rounds(x: &mut [u32; 16]) {
    let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
        x[b] ^= x[a].wrapping_add(x[d]).rotate_left(7);
        x[c] ^= x[b].wrapping_add(x[a]).rotate_left(9);
        x[d] ^= x[c].wrapping_add(x[b]).rotate_left(13);
        x[a] ^= x[d].wrapping_add(x[c]).rotate_left(18);
    };
    for _ in 0..10 {
        quarter(0, 4, 8, 12);
        quarter(5, 9, 13, 1);
        quarter(10, 14, 2, 6);
        quarter(15, 3, 7, 11);
        quarter(0, 1, 2, 3);
        quarter(5, 6, 7, 4);
        quarter(10, 11, 8, 9);
        quarter(15, 12, 13, 14);
    }
}

fn salsa20(key: &[u32; 8], nonce: [u32; 2], counter: u64) -> [u8; BLOCK_BYTES] {
    let (low, high) = (counter as u32, (counter >> 32) as u32);
    let start = state(key, &[nonce[0], nonce[1], low, high]);
    let mut x = start;
    rounds(&mut x);
    let mut out = [0; BLOCK_BYTES];
    for (bytes, (word, begin)) in out.chunks_exact_mut(4).zip(x.iter().zip(start)) {
        bytes.copy_from_slice(&word.wrapping_add(begin).to_le_bytes());
    }
    out
}

fn hsalsa20(key: &[u32; 8], input: &[u32; 4]) -> [u32; 8] {
    let mut x = state(key, input);
    rounds(&mut x);
    [x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9]]
}

/// Bits of a limb of a number below 2^130 - 5.
const LIMB_BITS: u32 = 26;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;

/// Poly1305 in five limbs of 26 bits, so that sums of products fit into 64 bits.
fn poly1305(key: &[u8; KEY_BYTES], message: &[u8]) -> [u8; TAG_BYTES] {
    let (r, s) = key.split_at(16);
    let r = u128::from_le_bytes(r.try_into().expect("16 bytes"))
        & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let s = u128::from_le_bytes(s.try_into().expect("16 bytes"));
    let r = limbs(r, 0);
    let mut h = [0_u64; 5];
    for chunk in message.chunks(16) {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        let mut top = 0;
        // A one is appended to every block: above the 16 bytes of a whole one.
        match block.get_mut(chunk.len()) {
            Some(byte) => *byte = 1,
            None => top = 1,
        }
        for (limb, more) in h.iter_mut().zip(limbs(u128::from_le_bytes(block), top)) {
            *limb += more;
        }
        h = multiply(&h, &r);
    }
    finish(h).wrapping_add(s).to_le_bytes()
}

fn limbs(number: u128, top: u64) -> [u64; 5] {
    let limb = |index: u32| (number >> (LIMB_BITS * index)) as u64 & LIMB_MASK;
    [limb(0), limb(1), limb(2), limb(3), limb(4) | top << 24]
}

fn multiply(h: &[u64; 5], r: &[u64; 5]) -> [u64; 5] {
    let mut products = [0_u64; 5];
    for (i, a) in h.iter().enumerate() {
        for (j, b) in r.iter().enumerate() {
            // 2^130 is 5 modulo the prime.
            let factor = if i + j < 5 { 1 } else { 5 };
            products[(i + j) % 5] += a * b * factor;
        }
    }
    carry(carry(products))
}

fn carry(mut h: [u64; 5]) -> [u64; 5] {
    for i in 0..4 {
        h[i + 1] += h[i] >> LIMB_BITS;
        h[i] &= LIMB_MASK;
    }
    h[0] += (h[4] >> LIMB_BITS) * 5;
    h[4] &= LIMB_MASK;
    h
}

/// The number modulo the prime, and of that the lowest 128 bits.
fn finish(h: [u64; 5]) -> u128 {
    let h = carry(carry(h));
    // Whether the number plus 5 reaches 2^130, found without a branch.
    let mut reduced = h;
    reduced[0] += 5;
    for i in 0..4 {
        reduced[i + 1] += reduced[i] >> LIMB_BITS;
        reduced[i] &= LIMB_MASK;
    }
    let mask = 0_u64.wrapping_sub(reduced[4] >> LIMB_BITS);
    reduced[4] &= LIMB_MASK;
    let mut number = 0_u128;
    for (index, (kept, less)) in h.iter().zip(reduced).enumerate() {
        let limb = (kept & !mask) | (less & mask);
        number = number.wrapping_add(u128::from(limb) << (LIMB_BITS as usize * index));
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
        digits.chunks(2).map(|p| byte(p).expect("hex")).collect()
    }

    /// The vector of NaCl's own `secretbox` test.
    #[test]
    fn a_message_is_sealed_as_nacl_seals_it() {
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let message = hex(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc
             e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31
             0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde
             048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864
             5e0705",
        );
        let sealed = hex(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce
             48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c972
             71d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae
             90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b3
             7973f622a43d14a6599b1f654cb45a74e355a5",
        );
        let key: [u8; KEY_BYTES] = key.try_into().expect("a key");
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().expect("a nonce");
        assert_eq!(seal(&key, &nonce, &message), sealed);
        assert_eq!(open(&key, &nonce, &sealed), Some(message));
    }

    /// The vectors of RFC 8439, sections 2.5.2 and A.3, where the numbers come close to the prime.
    #[test]
    fn the_authenticator_is_that_of_the_rfc() {
        let tag = |key: &str, message: &[u8]| {
            let key: [u8; KEY_BYTES] = hex(key).try_into().expect("a key");
            poly1305(&key, message).to_vec()
        };
        assert_eq!(
            tag(
                "85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b",
                b"Cryptographic Forum Research Group"
            ),
            hex("a8061dc1305136c6c22b8baf0c0127a9")
        );
        let zeros = "00".repeat(16);
        let two = format!("02{}{zeros}", "00".repeat(15));
        let one = format!("01{}{zeros}", "00".repeat(15));
        assert_eq!(
            tag(&two, &hex(&"ff".repeat(16))),
            hex("03000000000000000000000000000000")
        );
        let wraps = hex(&format!(
            "{}{}{}",
            "ff".repeat(16),
            "f0ffffffffffffffffffffffffffffff",
            "11000000000000000000000000000000"
        ));
        assert_eq!(tag(&one, &wraps), hex("05000000000000000000000000000000"));
        let exact = hex(&format!(
            "{}{}{}",
            "ff".repeat(16),
            "fbfefefefefefefefefefefefefefefe",
            "01".repeat(16)
        ));
        assert_eq!(tag(&one, &exact), hex(&zeros));
        assert_eq!(
            tag(&two, &hex("fdffffffffffffffffffffffffffffff")),
            hex("faffffffffffffffffffffffffffffff")
        );
    }

    #[test]
    fn what_was_touched_is_refused_at_every_length() {
        let (key, nonce) = ([7; KEY_BYTES], [9; NONCE_BYTES]);
        for length in [0, 1, 15, 31, 32, 33, 63, 64, 65, 95, 96, 97, 1_000] {
            let message: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut sealed = seal(&key, &nonce, &message);
            assert_eq!(open(&key, &nonce, &sealed), Some(message));
            let last = sealed.len() - 1;
            sealed[last] ^= 1;
            assert_eq!(open(&key, &nonce, &sealed), None);
            assert_eq!(open(&key, &nonce, &sealed[..last]), None);
        }
        assert_eq!(open(&key, &nonce, b"short"), None);
    }
}

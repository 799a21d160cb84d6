//! The test vectors of RFC 8439, and what its sections describe, put together from the parts that are tested.

extern crate std;
use std::vec::Vec;

use bytemuck::Zeroable as _;

use super::{
    chacha20::{BLOCK_LEN, ChaCha20},
    poly1305::Poly1305,
};

const ZERO_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const ONE_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000001";
const COUNTING_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const JABBERWOCKY_KEY: &str = "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0";
const ZERO_NONCE: &str = "000000000000000000000000";
const TWO_NONCE: &str = "000000000000000000000002";

const IETF: &str = "Any submission to the IETF intended by the Contributor for publication as all or part of an \
    IETF Internet-Draft or RFC and any statement made within the context of an IETF activity is considered an \"IETF \
    Contribution\". Such statements include oral statements in IETF sessions, as well as written and electronic \
    communications made at any time or place, which are addressed to";
const JABBERWOCKY: &str = "'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe:\n\
    All mimsy were the borogoves,\nAnd the mome raths outgrabe.";
const SUNSCREEN: &str = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
    sunscreen would be it.";
const DRAFTS: &str = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, \
    replaced, or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference \
    material or to cite them other than as /\u{201c}work in progress./\u{201d}";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    core::array::from_fn(|i| u32::from_le_bytes(bytes[4 * i..][..4].try_into().unwrap()))
}

/// RFC 8439 section 2.3: the block with this counter.
fn block(key: &str, nonce: &str, counter: u32) -> Vec<u8> {
    let mut cipher = ChaCha20::zeroed();
    cipher.start(&words(&hex(key)), words(&hex(nonce)));
    for _ in 0..counter {
        cipher.advance();
    }
    (0..16).flat_map(|i| cipher.word(i).to_le_bytes()).collect()
}

/// RFC 8439 section 2.4.
fn encrypt(key: &str, nonce: &str, counter: u32, text: &[u8]) -> Vec<u8> {
    let chunks = text.chunks(BLOCK_LEN as usize).zip(counter..);
    chunks
        .flat_map(|(chunk, counter)| {
            let keystream = block(key, nonce, counter);
            chunk.iter().zip(keystream).map(|(byte, key)| byte ^ key).collect::<Vec<_>>()
        })
        .collect()
}

/// RFC 8439 section 2.5.
fn authenticate(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key: [u32; 8] = words(key);
    let mut authenticator = Poly1305::zeroed();
    authenticator.start(|i| key[i]);
    for chunk in message.chunks(16) {
        let mut padded = [0; 17];
        padded[..chunk.len()].copy_from_slice(chunk);
        padded[chunk.len()] = 1;
        authenticator.absorb(words(&padded), u32::from(padded[16]));
    }
    authenticator.finish();
    (0..4).flat_map(|i| authenticator.tag(i).to_le_bytes()).collect()
}

/// RFC 8439 section 2.8: ciphertext and tag.
fn seal(key: &str, nonce: &str, associated: &[u8], text: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let ciphertext = encrypt(key, nonce, 1, text);
    let mut message = Vec::new();
    for part in [associated, &ciphertext] {
        message.extend_from_slice(part);
        message.resize(message.len().next_multiple_of(16), 0);
    }
    message.extend_from_slice(&(associated.len() as u64).to_le_bytes());
    message.extend_from_slice(&(ciphertext.len() as u64).to_le_bytes());
    (ciphertext, authenticate(&block(key, nonce, 0)[..32], &message))
}

#[test]
fn chacha20_blocks() {
    let ff_key = "00ff000000000000000000000000000000000000000000000000000000000000";
    for (key, nonce, counter, expected) in [
        // Section 2.3.2.
        (
            COUNTING_KEY,
            "000000090000004a00000000",
            1,
            "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e\
            d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
        ),
        // Appendix A.1.
        (
            ZERO_KEY,
            ZERO_NONCE,
            0,
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7\
            da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        ),
        (
            ZERO_KEY,
            ZERO_NONCE,
            1,
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed\
            29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
        ),
        (
            ONE_KEY,
            ZERO_NONCE,
            1,
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a\
            8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
        ),
        (
            ff_key,
            ZERO_NONCE,
            2,
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca\
            13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
        ),
        (
            ZERO_KEY,
            TWO_NONCE,
            0,
            "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7\
            8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
        ),
        // Appendix A.4: Poly1305 keys.
        (ONE_KEY, TWO_NONCE, 0, "ecfa254f845f647473d3cb140da9e87606cb33066c447b87bc2666dde3fbb739"),
        (JABBERWOCKY_KEY, TWO_NONCE, 0, "965e3bc6f9ec7ed9560808f4d229f94b137ff275ca9b3fcbdd59deaad23310ae"),
    ] {
        let expected = hex(expected);
        assert_eq!(block(key, nonce, counter)[..expected.len()], expected);
    }
}

#[test]
fn chacha20_encryption() {
    for (key, nonce, counter, text, expected) in [
        // Section 2.4.2.
        (
            COUNTING_KEY,
            "000000000000004a00000000",
            1,
            SUNSCREEN,
            "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b\
            f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8\
            07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736\
            5af90bbf74a35be6b40b8eedf2785e42874d",
        ),
        // Appendix A.2.
        (
            ONE_KEY,
            TWO_NONCE,
            1,
            IETF,
            "a3fbf07df3fa2fde4f376ca23e82737041605d9f4f4f57bd8cff2c1d4b7955ec2a97948bd3722915c8f3d337f7d37005\
            0e9e96d647b7c39f56e031ca5eb6250d4042e02785ececfa4b4bb5e8ead0440e20b6e8db09d881a7c6132f420e527950\
            42bdfa7773d8a9051447b3291ce1411c680465552aa6c405b7764d5e87bea85ad00f8449ed8f72d0d662ab052691ca66\
            424bc86d2df80ea41f43abf937d3259dc4b2d0dfb48a6c9139ddd7f76966e928e635553ba76c5c879d7b35d49eb2e62b\
            0871cdac638939e25e8a1e0ef9d5280fa8ca328b351c3c765989cbcf3daa8b6ccc3aaf9f3979c92b3720fc88dc95ed84\
            a1be059c6499b9fda236e7e818b04b0bc39c1e876b193bfe5569753f88128cc08aaa9b63d1a16f80ef2554d7189c411f\
            5869ca52c5b83fa36ff216b9c1d30062bebcfd2dc5bce0911934fda79a86f6e698ced759c3ff9b6477338f3da4f9cd85\
            14ea9982ccafb341b2384dd902f3d1ab7ac61dd29c6f21ba5b862f3730e37cfdc4fd806c22f221",
        ),
        (
            JABBERWOCKY_KEY,
            TWO_NONCE,
            42,
            JABBERWOCKY,
            "62e6347f95ed87a45ffae7426f27a1df5fb69110044c0d73118effa95b01e5cf166d3df2d721caf9b21e5fb14c616871\
            fd84c54f9d65b283196c7fe4f60553ebf39c6402c42234e32a356b3e764312a61a5532055716ead6962568f87d3f3f77\
            04c6a8d1bcd1bf4d50d6154b6da731b187b58dfd728afa36757a797ac188d1",
        ),
    ] {
        assert_eq!(encrypt(key, nonce, counter, text.as_bytes()), hex(expected));
    }
}

#[test]
fn poly1305_tags() {
    let zero = "00000000000000000000000000000000";
    let ones = "ffffffffffffffffffffffffffffffff";
    for (multiplier, addend, message, expected) in [
        // Section 2.5.2.
        (
            "85d6be7857556d337f4452fe42d506a8",
            "0103808afb0db2fd4abff6af4149f51b",
            b"Cryptographic Forum Research Group".to_vec(),
            "a8061dc1305136c6c22b8baf0c0127a9",
        ),
        // Appendix A.3, from number 7 on: where a carry is easily lost, and results between p and 2^130.
        (zero, zero, Vec::from([0; 64]), zero),
        (zero, "36e5f6b5c5e06070f0efca96227a863e", IETF.into(), "36e5f6b5c5e06070f0efca96227a863e"),
        ("36e5f6b5c5e06070f0efca96227a863e", zero, IETF.into(), "f3477e7cd95417af89a6b8794c310cf0"),
        (&JABBERWOCKY_KEY[..32], &JABBERWOCKY_KEY[32..], JABBERWOCKY.into(), "4541669a7eaaee61e708dc7cbcc5eb62"),
        ("02000000000000000000000000000000", zero, hex(ones), "03000000000000000000000000000000"),
        (
            "02000000000000000000000000000000",
            ones,
            hex("02000000000000000000000000000000"),
            "03000000000000000000000000000000",
        ),
        (
            "01000000000000000000000000000000",
            zero,
            hex("fffffffffffffffffffffffffffffffff0ffffffffffffffffffffffffffffff11000000000000000000000000000000"),
            "05000000000000000000000000000000",
        ),
        (
            "01000000000000000000000000000000",
            zero,
            hex("fffffffffffffffffffffffffffffffffbfefefefefefefefefefefefefefefe01010101010101010101010101010101"),
            zero,
        ),
        (
            "02000000000000000000000000000000",
            zero,
            hex("fdffffffffffffffffffffffffffffff"),
            "faffffffffffffffffffffffffffffff",
        ),
        (
            "01000000000000000400000000000000",
            zero,
            hex("e33594d7505e43b900000000000000003394d7505e4379cd0100000000000000\
                0000000000000000000000000000000001000000000000000000000000000000"),
            "14000000000000005500000000000000",
        ),
        (
            "01000000000000000400000000000000",
            zero,
            hex("e33594d7505e43b900000000000000003394d7505e4379cd010000000000000000000000000000000000000000000000"),
            "13000000000000000000000000000000",
        ),
    ] {
        assert_eq!(authenticate(&[hex(multiplier), hex(addend)].concat(), &message), hex(expected), "{multiplier}");
    }
}

#[test]
fn sealed_messages() {
    for (key, nonce, associated, text, ciphertext, tag) in [
        // Section 2.8.2.
        (
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            SUNSCREEN,
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
                1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
                3ff4def08e4b7a9de576d26586cec64b6116",
            "1ae10b594f09e26a7e902ecbd0600691",
        ),
        // Appendix A.5.
        (
            JABBERWOCKY_KEY,
            "000000000102030405060708",
            "f33388860000000000004e91",
            DRAFTS,
            "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0\
                bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
                9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9\
                9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
                0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130\
                305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b",
            "eead9d67890cbb22392336fea1851f38",
        ),
    ] {
        assert_eq!(seal(key, nonce, &hex(associated), text.as_bytes()), (hex(ciphertext), hex(tag)));
    }
}

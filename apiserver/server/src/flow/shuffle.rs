//! Shuffle sharding: each flow is dealt a small hand of queues out of many, so that two flows rarely share all of theirs.

/// Largest hand: validation bounds the entropy of a hand to 60 bits, and 15 cards need more than 1 bit each.
pub const HAND_MAX: usize = 60;

/// Deals `hand` different numbers below `deck`, each hand as likely as any other for an even hash.
pub fn deal(hash: u64, deck: usize, hand: usize, mut take: impl FnMut(usize)) {
    let hand = hand.min(deck).min(HAND_MAX);
    let mut dealt = [0_usize; HAND_MAX];
    let mut rest = hash;
    for n in 0..hand {
        let left = (deck - n) as u64;
        let mut card = usize::try_from(rest % left).unwrap_or(0);
        rest /= left;
        // The card is the n-th of those left: step over those that are gone, which are kept in order.
        let gone = &mut dealt[..=n];
        let mut place = 0;
        while place < n && gone[place] <= card {
            card += 1;
            place += 1;
        }
        gone.copy_within(place..n, place + 1);
        gone[place] = card;
        take(card);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hand(hash: u64, deck: usize, hand: usize) -> Vec<usize> {
        let mut cards = Vec::new();
        deal(hash, deck, hand, |card| cards.push(card));
        cards
    }

    proptest! {
        #[test]
        fn a_hand_has_different_cards_of_the_deck(hash: u64, deck in 1_usize..200, n in 1_usize..8) {
            let cards = hand(hash, deck, n);
            prop_assert_eq!(cards.len(), n.min(deck));
            let mut sorted = cards.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), cards.len());
            prop_assert!(cards.iter().all(|card| *card < deck));
        }
    }

    #[test]
    fn every_hand_is_dealt_equally_often() {
        let mut counts = std::collections::HashMap::new();
        for hash in 0..(5 * 4 * 3 * 10) {
            *counts.entry(hand(hash, 5, 3)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 5 * 4 * 3);
        assert!(counts.values().all(|count| *count == 10));
    }
}

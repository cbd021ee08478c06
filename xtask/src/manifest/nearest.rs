//! What somebody may have meant by a word that is not known.

/// `; did you mean …?`, if one of the `known` words is near; and all of them.
pub fn hint(word: &str, known: &[&str]) -> String {
    let all = known.join(", ");
    match nearest(word, known) {
        Some(near) => format!("; did you mean `{near}`? Known are {all}"),
        None => format!("; known are {all}"),
    }
}

/// The known word with the fewest changes to `word`, if they are few.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let few = (word.chars().count() / 3).max(1);
    let near = known.iter().map(|known| (distance(&word, known), *known));
    near.filter(|(distance, _)| *distance <= few).min().map(|(_, known)| known)
}

/// How many letters have to be put in, left out, replaced, or swapped with their neighbours to make
/// one word of the other (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut best =
                (rows[i][j] + usize::from(a != b)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && *b == one[i - 1] {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, hint, nearest};

    #[test]
    fn a_distance_counts_changes() {
        for (one, other, changes) in [
            ("", "", 0),
            ("", "abc", 3),
            ("memroy", "memory", 1),
            ("vcpu", "vcpus", 1),
            ("cat", "dog", 3),
        ] {
            assert_eq!((distance(one, other), distance(other, one)), (changes, changes), "{one}");
        }
    }

    #[test]
    fn the_nearest_word_is_offered_and_a_far_one_is_not() {
        let known = ["name", "memory", "on_crash", "vcpus"];
        assert_eq!(nearest("memmory", &known), Some("memory"));
        assert_eq!(nearest("On-Crash", &known), Some("on_crash"));
        assert_eq!(nearest("nmae", &known), Some("name"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(hint("x", &["a", "b"]), "; did you mean `a`? Known are a, b");
        assert_eq!(hint("xyz", &["a", "b"]), "; known are a, b");
    }
}

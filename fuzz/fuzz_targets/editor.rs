//! Any keys typed to the monitor's line editor, with completion. The cursor stays on a line of bounded
//! length, which can be drawn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plinth::monitor::complete::complete;
use plinth::monitor::editor::{Edit, Editor, LONGEST};

fuzz_target!(|input: (Vec<String>, Vec<u8>)| {
    let (names, keys) = input;
    let mut editor = Editor::default();
    for key in keys {
        let edit = editor.key(key, |line| complete(line, &names));
        if let Edit::Line(line) = edit {
            assert!(line.len() <= LONGEST);
        }
        assert!(editor.text().len() <= LONGEST && editor.cursor() <= editor.text().len());
        let mut out = Vec::new();
        editor.draw(&mut out);
        assert!(out.len() <= 160);
    }
});

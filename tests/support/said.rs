//! What programs say, run within the test.

use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

/// A place to write to that can be read afterwards.
#[derive(Clone, Default)]
pub struct Sink(Rc<RefCell<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    /// What was written.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow()).into_owned()
    }
}

/// Status, stdout and stderr of a run of `fsck.cowfs`.
pub fn fsck(args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Sink::default(), Sink::default());
    let args = ["fsck.cowfs"].iter().chain(args).map(Into::into);
    let code = fsck_cowfs::run(args, &mut out, &mut err);
    (code, out.text(), err.text())
}

/// What `fsck.cowfs` says of an image of which it has nothing to tell: one line. Otherwise an error with all of it.
pub fn silent(option: &str, image: &Path) -> Result<String, String> {
    let (code, out, err) = fsck(&[option, &image.to_string_lossy()]);
    if code == 0 && out.lines().count() == 1 && err.is_empty() {
        Ok(out)
    } else {
        Err(format!("exit {code}: {out}{err}"))
    }
}

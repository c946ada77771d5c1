//! How a tool is told apart from its work: what happens is told to a [`Reporter`], which the program writes to stderr.

/// Is told what happens. Texts are stock's, without the program's name.
pub trait Reporter: Sync {
    /// Of use with `-v` only.
    fn info(&self, text: &str);
    /// Something that does not count as an error.
    fn warning(&self, text: &str);
    /// More about the warning before it.
    fn detail(&self, text: &str) {
        self.warning(text);
    }
    /// What to do about the warning or error before it.
    fn hint(&self, text: &str) {
        self.detail(text);
    }
    /// An error that the work goes on after, or that the caller is told as well.
    fn error(&self, text: &str);
}

//! A file that is there under its name when it is complete, and not before.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError};

/// Where an archive of one file goes.
pub(super) enum Out<'a> {
    /// A file, which may be seekable.
    File(&'a mut OutputFile),
    /// Anything else, from its beginning to its end.
    Stream(&'a mut dyn Write),
}

impl Out<'_> {
    /// The file, when it can be written to at any place.
    pub(super) fn seekable(&mut self) -> Option<&mut io::BufWriter<File>> {
        match self {
            Out::File(file) => file.seekable(),
            Out::Stream(_) => None,
        }
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Out::File(file) => file.write(bytes),
            Out::Stream(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::File(file) => file.flush(),
            Out::Stream(out) => out.flush(),
        }
    }
}

/// A file being written, or standard output.
#[derive(Debug)]
pub struct OutputFile {
    sink: Sink,
    /// The name it will have, and the name it has meanwhile.
    names: Option<(PathBuf, PathBuf)>,
    sync: bool,
}

#[derive(Debug)]
enum Sink {
    Standard(io::Stdout),
    File(io::BufWriter<File>),
}

impl OutputFile {
    /// Begins a file; `None` is standard output.
    pub fn create(path: Option<&Path>, sync: bool) -> Result<OutputFile> {
        let Some(path) = path else {
            return Ok(OutputFile { sink: Sink::Standard(io::stdout()), names: None, sync });
        };
        let open = |path: &Path| {
            File::create(path).map(io::BufWriter::new).map_err(|error| {
                ToolError::new(format!(
                    "could not open output file \"{}\": {}",
                    path.display(),
                    pgkeep_tool::system_text(&error)
                ))
            })
        };
        // A pipe or device is not replaced, and a link stays one.
        let plain = fs::symlink_metadata(path).map_or(true, |metadata| metadata.is_file());
        if !plain {
            return Ok(OutputFile { sink: Sink::File(open(path)?), names: None, sync: false });
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.unfinished", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let sink = match open(&temporary) {
            Ok(sink) => sink,
            // The message is about the name that was asked for.
            Err(_) => return open(path).map(|sink| OutputFile { sink: Sink::File(sink), names: None, sync }),
        };
        Ok(OutputFile { sink: Sink::File(sink), names: Some((path.to_owned(), temporary)), sync })
    }

    /// Goes on behind what a file holds already.
    pub fn append(path: &Path, sync: bool) -> Result<OutputFile> {
        let file = File::options().append(true).create(true).open(path).map_err(|error| {
            ToolError::new(format!(
                "could not open output file \"{}\": {}",
                path.display(),
                pgkeep_tool::system_text(&error)
            ))
        })?;
        Ok(OutputFile { sink: Sink::File(io::BufWriter::new(file)), names: None, sync })
    }

    /// The file, when it can be written to at any place.
    fn seekable(&mut self) -> Option<&mut io::BufWriter<File>> {
        match &mut self.sink {
            Sink::File(file) => file.stream_position().is_ok().then_some(file),
            Sink::Standard(_) => None,
        }
    }

    /// Everything is written: the file gets its name.
    pub fn finish(mut self) -> Result<()> {
        let failure = |error: io::Error| ToolError::output(&error);
        self.flush().map_err(failure)?;
        if let Sink::File(file) = &mut self.sink
            && self.sync
        {
            file.get_ref().sync_all().map_err(failure)?;
        }
        if let Some((name, temporary)) = self.names.take() {
            fs::rename(&temporary, &name).map_err(|error| {
                ToolError::new(format!(
                    "could not rename \"{}\" to \"{}\": {error}",
                    temporary.display(),
                    name.display()
                ))
            })?;
            if self.sync {
                let directory = name.parent().filter(|parent| !parent.as_os_str().is_empty());
                sync_directory(directory.unwrap_or(Path::new("."))).map_err(failure)?;
            }
        }
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        // What was not finished is of no use.
        if let Some((_, temporary)) = &self.names {
            drop(fs::remove_file(temporary));
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Standard(stdout) => stdout.write(bytes),
            Sink::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Standard(stdout) => stdout.flush(),
            Sink::File(file) => file.flush(),
        }
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

//! What two images differ in: their files, and the steps that made the difference.

use std::path::PathBuf;

use kiln_cache::{ImageRecord, LayerTree, SourceTree as _};

use crate::Error;
use crate::differences::{self, Change, FileDifference};

/// A file that differs between two images, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDifference {
    /// In what.
    pub file: FileDifference,
    /// The instruction that made it so, as the history of its image has it; empty where that does not say.
    pub step: String,
}

impl super::Images {
    /// Compares two images file by file; times count for nothing.
    ///
    /// The step is the second image's last one that wrote or removed the file; of a file that the second image never
    /// had it is the first image's.
    ///
    /// # Errors
    /// A layer is not in the store any more; I/O.
    pub fn differences(&self, old: &ImageRecord, new: &ImageRecord) -> Result<Vec<ImageDifference>, Error> {
        let files = differences::compare(&self.tree(old)?, &self.tree(new)?)?;
        let mut steps: Vec<Option<String>> = vec![None; files.len()];
        let is_removed = |file: &FileDifference| file.changes == [Change::Removed];
        self.find_writers(new, &files, &mut steps, &|file| !is_removed(file))?;
        self.find_removers(new, &files, &mut steps, &is_removed)?;
        self.find_writers(old, &files, &mut steps, &is_removed)?;
        let step = |step: Option<String>| step.unwrap_or_default();
        Ok(files
            .into_iter()
            .zip(steps)
            .map(|(file, made)| ImageDifference { file, step: step(made) })
            .collect())
    }

    /// The topmost layer that has each file. One layer is open at a time: an image may have more than a process files.
    fn find_writers(
        &self,
        image: &ImageRecord,
        files: &[FileDifference],
        steps: &mut [Option<String>],
        concerns: &dyn Fn(&FileDifference) -> bool,
    ) -> Result<(), Error> {
        let names = self.step_names(image)?;
        for (layer, name) in image.layers.iter().zip(&names).rev() {
            let tree = LayerTree::open(&[self.store.layer_path(*layer)])?;
            for (file, step) in files.iter().zip(steps.iter_mut()) {
                if step.is_none() && concerns(file) && tree.entry(&file.path)?.is_some() {
                    *step = Some(name.clone());
                }
            }
        }
        Ok(())
    }

    /// The layer with which each file was gone for good.
    fn find_removers(
        &self,
        image: &ImageRecord,
        files: &[FileDifference],
        steps: &mut [Option<String>],
        concerns: &dyn Fn(&FileDifference) -> bool,
    ) -> Result<(), Error> {
        if !files.iter().any(concerns) {
            return Ok(());
        }
        let names = self.step_names(image)?;
        let paths: Vec<PathBuf> = image.layers.iter().map(|layer| self.store.layer_path(*layer)).collect();
        let mut were_there = vec![false; files.len()];
        for (count, name) in (1..).zip(&names) {
            let tree = LayerTree::open(&paths[..count])?;
            for ((file, step), was_there) in files.iter().zip(steps.iter_mut()).zip(&mut were_there) {
                if concerns(file) {
                    let is_there = tree.entry(&file.path)?.is_some();
                    if *was_there && !is_there {
                        *step = Some(name.clone());
                    }
                    *was_there = is_there;
                }
            }
        }
        Ok(())
    }

    /// The instruction of each layer, bottom first, as the history has it.
    fn step_names(&self, image: &ImageRecord) -> Result<Vec<String>, Error> {
        let history = self.config(image)?.history;
        let mut names: Vec<String> =
            history.into_iter().filter(|entry| !entry.empty_layer).map(|entry| entry.created_by).collect();
        names.resize(image.layers.len(), String::new());
        Ok(names)
    }
}

//! Pictures of the views, and what must hold for all of them.

use crate::options::{ColourDepth, View};
use crate::testing::{self, check, check_view, model, paint, press, screen};

#[test]
fn overview() {
    check_view("overview", &mut model(View::Overview));
}

#[test]
fn builds() {
    check_view("builds", &mut model(View::Builds));
}

#[test]
fn actions() {
    check_view("actions", &mut model(View::Actions));
}

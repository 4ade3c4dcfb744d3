//! 5 — the templates: load, check, render, escape.

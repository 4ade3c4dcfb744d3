//! Webhook URLs, and lists of hosts.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    postbell::properties::webhook(text);
    postbell::properties::hosts(text);
});

//! A strict stand-in for the DingTalk robot endpoint.

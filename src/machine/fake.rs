//! A CPU that follows a script: tests run the whole hypervisor on it.

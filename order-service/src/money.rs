//! Amounts: i64 minor units with a currency; every sum is checked. Knows nothing of orders.

use thiserror::Error;

/// The largest amount of one order (ten billion of a currency with cents): nine million such orders still sum in an i64.
pub const MAX_AMOUNT_MINOR: i64 = 1_000_000_000_000;

/// The most pieces of one order.
pub const MAX_QUANTITY: i64 = 100_000;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum AmountError {
    #[error("{what} must be above zero, got {got}")]
    NotPositive { what: &'static str, got: i64 },
    #[error("{what} of {got} is above the limit of {limit}")]
    TooLarge { what: &'static str, got: i64, limit: i64 },
    #[error("{unit_price_minor} x {quantity} does not fit an amount")]
    Overflow { unit_price_minor: i64, quantity: i64 },
    #[error("currency must be three capital letters, got {0:?}")]
    Currency(String),
}

/// `unit_price_minor * quantity`, or why that is no amount.
pub fn total(unit_price_minor: i64, quantity: i64) -> Result<i64, AmountError> {
    within("unit_price_minor", unit_price_minor, MAX_AMOUNT_MINOR)?;
    within("quantity", quantity, MAX_QUANTITY)?;
    let amount = unit_price_minor.checked_mul(quantity).ok_or(AmountError::Overflow { unit_price_minor, quantity })?;
    within("amount_minor", amount, MAX_AMOUNT_MINOR)?;
    Ok(amount)
}

/// `got` is in 1..=limit.
pub fn within(what: &'static str, got: i64, limit: i64) -> Result<(), AmountError> {
    match got {
        ..=0 => Err(AmountError::NotPositive { what, got }),
        _ if got > limit => Err(AmountError::TooLarge { what, got, limit }),
        _ => Ok(()),
    }
}

pub fn currency(code: &str) -> Result<(), AmountError> {
    let valid = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if valid { Ok(()) } else { Err(AmountError::Currency(code.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_positive_bounded_and_never_wrap() {
        let cases = [
            (1, 1, "1"),
            (1999, 3, "5997"),
            (0, 1, "unit_price_minor must be above zero, got 0"),
            (-5, 1, "unit_price_minor must be above zero, got -5"),
            (5, 0, "quantity must be above zero, got 0"),
            (5, -1, "quantity must be above zero, got -1"),
            (5, i64::MAX, "quantity of 9223372036854775807 is above the limit of 100000"),
            (i64::MAX, 1, "unit_price_minor of 9223372036854775807 is above the limit of 1000000000000"),
            (MAX_AMOUNT_MINOR, 2, "amount_minor of 2000000000000 is above the limit of 1000000000000"),
            (MAX_AMOUNT_MINOR, 1, "1000000000000"),
        ];
        for (price, quantity, expect) in cases {
            let got = total(price, quantity).map_or_else(|e| e.to_string(), |amount| amount.to_string());
            assert_eq!(got, expect, "{price} x {quantity}");
        }
    }

    #[test]
    fn a_currency_is_three_capitals() {
        for (code, valid) in [("CNY", true), ("cny", false), ("CN", false), ("CNYX", false), ("¥", false)] {
            assert_eq!(currency(code).is_ok(), valid, "{code}");
        }
    }
}

//! Setters of option structs.

/// Implements a setter for each field: `Options::default().field(value)`. Setters of optional fields take a value or an
/// `Option`.
macro_rules! setters {
    ($options:ident { $($plain:ident: $plain_ty:ty,)* } optional { $($optional:ident: $optional_ty:ty,)* }) => {
        impl $options {
            $(#[doc = concat!("Sets the field `", stringify!($plain), "`.")]
            #[must_use]
            pub fn $plain(mut self, $plain: $plain_ty) -> Self {
                self.$plain = $plain;
                self
            })*

            $(#[doc = concat!("Sets the field `", stringify!($optional), "`.")]
            #[must_use]
            pub fn $optional(mut self, $optional: impl Into<Option<$optional_ty>>) -> Self {
                self.$optional = $optional.into();
                self
            })*
        }
    };
}

//! `#[common_mq::main]` and `def!`. Not here: the runtime, arguments and exit codes; those are
//! functions of `mq-core`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, ExprPath, Ident, ItemFn, Path, Result, Token, parenthesized};

use crate::attr::nearest;
use crate::listener::hidden_name;

/// The crates of `scan(crate_a, crate_b)`.
struct Scan(Vec<Path>);

impl Parse for Scan {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.is_empty() {
            return Ok(Scan(Vec::new()));
        }
        let word: Ident = input.parse()?;
        if word != "scan" {
            let text = match nearest(&word.to_string(), ["scan"].into_iter()) {
                Some(near) => format!("unknown attribute `{word}`; did you mean `{near}(...)`?"),
                None => format!("unknown attribute `{word}`; known is: `scan(crate_a, crate_b)`"),
            };
            return Err(Error::new_spanned(word, text));
        }
        let inside;
        parenthesized!(inside in input);
        let crates = Punctuated::<Path, Token![,]>::parse_terminated(&inside)?;
        match input.is_empty() {
            true => Ok(Scan(crates.into_iter().collect())),
            false => Err(input.error("`scan(...)` is all that `main` takes")),
        }
    }
}

pub(crate) fn expand(arguments: TokenStream, item: &TokenStream) -> TokenStream {
    match enter(arguments, item) {
        Ok(main) => main,
        Err(error) => {
            let error = error.into_compile_error();
            // Inside a `main` of the right shape, so that the mistake is the only thing reported.
            quote! {
                #error
                fn main() {
                    #[allow(dead_code, reason = "it would be the program's main")]
                    #item
                }
            }
        }
    }
}

fn enter(arguments: TokenStream, item: &TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item.clone()).map_err(|_| {
        Error::new(Span::call_site(), "`#[common_mq::main]` stands on `async fn main(app: App)`")
    })?;
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        let text = "`main` is an `async fn`; put `async` before `fn`";
        return Err(Error::new_spanned(signature.fn_token, text));
    }
    if signature.inputs.len() != 1 {
        let text = "`main` takes the application: `async fn main(app: App) -> common_mq::Result`";
        return Err(Error::new_spanned(&signature.ident, text));
    }
    let Scan(crates) = syn::parse2(arguments)?;
    let markers = crates.iter().map(|name| {
        let span = name.segments.last().map_or_else(Span::call_site, |s| s.ident.span());
        quote_spanned!(span=> &#name::__COMMON_MQ_CRATE)
    });
    let name = &signature.ident;
    Ok(quote! {
        fn main() -> ::std::process::ExitCode {
            #item
            ::common_mq::__private::enter(&[#(#markers),*], #name)
        }
    })
}

/// `def!(path::to::function)`: the definition that stands beside the listener or factory.
pub(crate) fn definition(item: TokenStream) -> TokenStream {
    let path = match syn::parse2::<ExprPath>(item) {
        Ok(path) => path,
        Err(_) => {
            let text = "`def!` takes the path of a listener or `#[bean]`: `def!(orders::on_paid)`";
            return Error::new(Span::call_site(), text).into_compile_error();
        }
    };
    let mut path = path.path;
    if let Some(last) = path.segments.last_mut() {
        let mut hidden = hidden_name(&last.ident);
        hidden.set_span(last.ident.span());
        last.ident = hidden;
    }
    quote!(#path)
}

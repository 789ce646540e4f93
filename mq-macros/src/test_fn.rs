//! `#[common_mq::test]`: an application of what the test names, started before its body. Not here:
//! what the kit does; that is `mq-core`'s.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, Ident, ItemFn, LitStr, Path, Result, Token, bracketed};

use crate::attr::nearest;

const KNOWN: [&str; 4] = ["listeners", "components", "provide", "set"];

/// The arguments of `#[common_mq::test(...)]`.
#[derive(Default)]
struct Wanted {
    listeners: Vec<Path>,
    components: Vec<Path>,
    provided: Vec<Expr>,
    sets: Vec<Setting>,
}

/// `"mq.drain" = "1s"`.
struct Setting(LitStr, LitStr);

impl Parse for Setting {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let key = input.parse()?;
        input.parse::<Token![=]>()?;
        Ok(Self(key, input.parse()?))
    }
}

impl Parse for Wanted {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut wanted = Self::default();
        while !input.is_empty() {
            let word: Ident = input.parse()?;
            check_word(&word)?;
            input.parse::<Token![=]>()?;
            match word.to_string().as_str() {
                "listeners" => wanted.listeners = list(input)?,
                "components" => wanted.components = list(input)?,
                "provide" => wanted.provided = list(input)?,
                _ => wanted.sets = list(input)?,
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(wanted)
    }
}

fn check_word(word: &Ident) -> Result<()> {
    let text = word.to_string();
    if KNOWN.contains(&text.as_str()) {
        return Ok(());
    }
    Err(Error::new_spanned(
        word,
        match nearest(&text, KNOWN.into_iter()) {
            Some(near) => format!("unknown argument `{text}`; did you mean `{near} = [...]`?"),
            None => format!("unknown argument `{text}`; known are: {}", KNOWN.join(", ")),
        },
    ))
}

fn list<T: Parse>(input: ParseStream<'_>) -> Result<Vec<T>> {
    let inside;
    bracketed!(inside in input);
    Ok(Punctuated::<T, Token![,]>::parse_terminated(&inside)?.into_iter().collect())
}

pub(crate) fn expand(arguments: TokenStream, item: &TokenStream) -> TokenStream {
    test(arguments, item).unwrap_or_else(Error::into_compile_error)
}

fn test(arguments: TokenStream, item: &TokenStream) -> Result<TokenStream> {
    let shape = "`#[common_mq::test]` stands on `async fn name(test: TestMq)`";
    let function: ItemFn =
        syn::parse2(item.clone()).map_err(|_| Error::new(Span::call_site(), shape))?;
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        let text = "a test of an application is an `async fn`; put `async` before `fn`";
        return Err(Error::new_spanned(signature.fn_token, text));
    }
    if signature.inputs.len() != 1 {
        return Err(Error::new_spanned(&signature.ident, shape));
    }
    let Wanted { listeners, components, provided, sets } = syn::parse2(arguments)?;
    let (keys, values): (Vec<_>, Vec<_>) = sets.into_iter().map(|Setting(k, v)| (k, v)).unzip();
    let name = &signature.ident;
    let (attributes, body) = (&function.attrs, &function.block);
    let (inputs, output) = (&signature.inputs, &signature.output);
    Ok(quote! {
        #(#attributes)*
        #[::core::prelude::v1::test]
        fn #name() #output {
            async fn #name(#inputs) #output #body
            let app = ::common_mq::App::bare()
                #(.listener(::common_mq::def!(#listeners)))*
                #(.component::<#components>())*
                #(.provide(#provided))*
                #(.set(#keys, #values))*;
            ::common_mq::test::run(app, #name)
        }
    })
}
